from __future__ import annotations

import pytest

from shoal.sim.options import human_int, parse


def test_the_defaults_are_quick_and_fit_together() -> None:
    settings = parse([], {})
    assert settings.decode_ms == 2
    assert settings.served == ("sim",)
    assert settings.api_keys == ()
    assert settings.kv_blocks * settings.block_size >= settings.max_model_len


def test_vllms_arguments_stay_in_the_line_and_are_noted() -> None:
    settings = parse(
        ["--swap-space", "2", "--max_model_len=4k", "--dtype=bfloat16", "--enforce-eager", "-tp", "2"], {}
    )
    assert settings.max_model_len == 4000
    assert settings.ignored == ("--swap-space", "2", "--dtype=bfloat16", "--enforce-eager")


def test_an_argument_is_not_abbreviated() -> None:
    assert parse(["--max-model", "5"], {}).ignored == ("--max-model", "5")


def test_names_and_keys_may_be_several() -> None:
    settings = parse(["--model", "/m", "--served-model-name", "a", "b", "--api-key", "k1", "k2"], {})
    assert (settings.model, settings.served, settings.api_keys) == ("/m", ("a", "b"), ("k1", "k2"))


def test_a_key_in_the_environment_is_used_unless_one_is_given() -> None:
    assert parse([], {"VLLM_API_KEY": "env"}).api_keys == ("env",)
    assert parse(["--api-key", "k"], {"VLLM_API_KEY": "env"}).api_keys == ("k",)


def test_numbers_have_units_as_in_vllm() -> None:
    assert [human_int(word) for word in ("7", "4k", "4K", "1.5k", "2M")] == [7, 4000, 4096, 1500, 2 << 20]


def test_faults_are_read_from_the_line() -> None:
    settings = parse(["--fault", '{"kind": "exit", "after_seconds": 0.2}', "--fault", '{"kind": "slow"}'], {})
    assert [fault.kind for fault in settings.faults] == ["exit", "slow"]


def test_the_kv_cache_grows_with_the_context_unless_it_is_given() -> None:
    assert parse(["--max-model-len", "1000000"], {}).kv_blocks * 16 >= 4_000_000
    assert parse(["--num-gpu-blocks-override", "100", "--max-model-len", "1600"], {}).kv_blocks == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "x"], "invalid int value"),
        (["--max-num-seqs", "0"], "invalid"),
        (["--time-scale", "-1"], "invalid"),
        (["--decode-ms", "nan"], "invalid"),
        (["--fault", "{"], "Expecting property name"),
        (["--headless"], "--headless needs --nnodes"),
        (["--nnodes", "2"], "must evenly divide the total world size"),
        (["--nnodes", "2", "-tp", "2", "--node-rank", "2", "--headless"], "must be between 0 and 1"),
        (["--nnodes", "2", "-tp", "2", "--node-rank", "1"], "every node rank but 0 is --headless"),
        (["--nnodes", "2", "-tp", "2", "--headless"], "every node rank but 0 is --headless"),
        (
            ["-n", "2", "-tp", "2", "-r", "1", "--headless", "--fault", '{"kind": "crash"}'],
            "takes no --fault",
        ),
        (["--distributed-executor-backend", "x"], "invalid choice"),
        (["-n", "2", "-tp", "2", "--distributed-executor-backend", "ray"], "executor backend is mp"),
        (["--fault", '{"kind": "boom"}'], "unknown kind of fault"),
        (["--kv-blocks", "10", "--max-model-len", "161"], "does not fit 10 KV blocks"),
        (["--ssl-keyfile", "k"], "TLS needs --ssl-certfile"),
        (["--ssl-certfile", "/nowhere/cert.pem"], "there is no file /nowhere/cert.pem"),
        (["--scheduling-policy", "lottery"], "invalid choice"),
    ],
)
def test_nonsense_ends_with_a_message(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments, {})
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
