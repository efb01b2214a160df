from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.engine.command import GIB, LAUNCHER, api_key, cli_args, command, environment, option, shown
from shoal.engine.machine import Machine
from shoal.engine.spec import Tls
from unit.engine.fakes import engine_spec

MACHINE = Machine(cores=16, memory=64 * GIB, engines=1, cxx=True)
SHARED = Machine(cores=16, memory=64 * GIB, engines=4, cxx=True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"max_model_len": 2048}, ("--max-model-len", "2048")),
        ({"max-model-len": 2048}, ("--max-model-len", "2048")),
        ({"enforce_eager": True}, ("--enforce-eager",)),
        ({"enable_prefix_caching": False}, ("--no-enable-prefix-caching",)),
        ({"quantization": None}, ()),
        ({"lora_modules": ["a=/a", "b=/b"]}, ("--lora-modules", "a=/a", "b=/b")),
        ({"hf_overrides": {"rope": {"x": 1}}}, ("--hf-overrides", '{"rope": {"x": 1}}')),
        ({"compilation_config.cudagraph_mode": "NONE"}, ("--compilation-config.cudagraph_mode", "NONE")),
        ({"-tp": 2}, ("-tp", "2")),
        ({"gpu_memory_utilization": 0.5}, ("--gpu-memory-utilization", "0.5")),
        ({"seed": -1}, ("--seed=-1",)),
        ({"chat_template": "--odd"}, ("--chat-template=--odd",)),
        (["--max-model-len", 2048], ("--max-model-len", "2048")),
        ({}, ()),
    ],
    ids=str,
)
def test_arguments_become_a_command_line(args: Any, words: tuple[str, ...]) -> None:
    assert cli_args(args) == words


def test_a_string_in_place_of_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match="not one string"):
        cli_args("--enforce-eager")


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z_]{0,20}[a-z]", fullmatch=True), st.integers() | st.text(min_size=1)
    )
)
def test_options_are_found_again_in_the_command_line(args: dict[str, int | str]) -> None:
    words = cli_args(args)
    for name, value in args.items():
        assert option(words, f"--{name}") in {str(value), ""} or str(value).startswith("-")


def test_option_is_found_in_all_spellings() -> None:
    assert option(("--max_model_len", "1"), "--max-model-len") == "1"
    assert option(("--max-model-len=1",), "--max-model-len") == "1"
    assert option(("--a", "1", "--a", "2"), "--a") == "2"
    assert option(("--flag", "--other"), "--flag") == ""
    assert option(("--other",), "--flag") is None


def test_vllm_is_started_through_the_launcher_by_its_own_interpreter() -> None:
    words = command(engine_spec(port=20001, args=("--max-model-len", "2048")))
    assert words == [
        *("/venv/python", str(LAUNCHER), "serve", "/models/m", "--served-model-name", "m"),
        *("--disable-access-log-for-endpoints", "/health,/metrics,/v1/models"),
        *("--max-model-len", "2048", "--host", "127.0.0.1", "--port", "20001"),
    ]


def test_served_names_of_the_user_are_left_alone() -> None:
    words = command(engine_spec(args=("--served-model-name", "a", "b")))
    assert words.count("--served-model-name") == 1


def test_sim_is_started_by_our_interpreter() -> None:
    words = command(engine_spec(kind="sim", port=20001, args=("--speed", "2")))
    assert words[:3] == [sys.executable, "-m", "shoal.sim"]
    assert words[3:] == ["--host", "127.0.0.1", "--port", "20001", "--model", "m", "--speed", "2"]


def test_a_program_is_started_by_its_own_command_line() -> None:
    spec = engine_spec(
        kind="command",
        port=20001,
        gpus=(0, 1),
        args=("p", "{model}", "--name={name}", "--at", "{host}:{port}", "--tp", "{gpus}", '{"a": 1}'),
    )
    assert command(spec) == ["p", "/models/m", "--name=m", "--at", "127.0.0.1:20001", "--tp", "2", '{"a": 1}']
    assert (
        not {"VLLM_CPU_KVCACHE_SPACE"}
        & environment(engine_spec(kind="command", gpus=()), {}, "abc", MACHINE).keys()
    )


def test_behind_tls_a_program_gets_its_place_from_the_front() -> None:
    tls = Tls(authority="a", ca="/a/ca.pem", certificate="/a/node.pem", key="/a/node.key")
    words = command(
        engine_spec(kind="command", port=20001, args=("p", "{name}", "{host}", "{port}"), tls=tls)
    )
    assert words[:7] == [sys.executable, "-m", "shoal.engine.front", "--host", "127.0.0.1", "--port", "20001"]
    assert words[words.index("--") + 1 :] == ["p", "m", "{host}", "{port}"]
    assert option(words, "--ca") == "/a/ca.pem"


def test_environment_marks_the_engine_and_gives_it_its_gpus() -> None:
    env = environment(engine_spec(gpus=(1, 3)), {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0"}, "abc")
    assert env["SHOAL_ENGINE"] == "abc"
    assert env["PATH"] == "/bin"
    assert env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_environment_leaves_gpus_alone_that_are_not_managed() -> None:
    assert environment(engine_spec(), {"CUDA_VISIBLE_DEVICES": "7"}, "abc")["CUDA_VISIBLE_DEVICES"] == "7"
    assert "CUDA_VISIBLE_DEVICES" not in environment(engine_spec(), {}, "abc")


def test_environment_hides_gpus_from_an_engine_on_the_cpu() -> None:
    assert environment(engine_spec(gpus=()), {}, "abc")["CUDA_VISIBLE_DEVICES"] == ""


def test_environment_keeps_the_clusters_secret_from_the_engine() -> None:
    env = environment(engine_spec(), {"SHOAL_SECRET": "s", "NOTIFY_SOCKET": "/run/x"}, "abc")
    assert "SHOAL_SECRET" not in env
    assert "NOTIFY_SOCKET" not in env


def test_variables_of_the_user_win_but_for_the_marker() -> None:
    spec = engine_spec(
        gpus=(0,), env={"CUDA_VISIBLE_DEVICES": "5", "SHOAL_ENGINE": "x", "PYTHONUNBUFFERED": "0"}
    )
    env = environment(spec, {}, "abc")
    assert (env["CUDA_VISIBLE_DEVICES"], env["SHOAL_ENGINE"], env["PYTHONUNBUFFERED"]) == ("5", "abc", "0")


def test_engines_that_share_a_machine_share_its_cores_and_memory() -> None:
    env = environment(engine_spec(gpus=()), {}, "abc", SHARED)
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert env["OMP_NUM_THREADS"] == "4"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "4"


def test_workers_of_one_engine_share_too() -> None:
    env = environment(
        engine_spec(gpus=(), args=("-tp", "2", "--pipeline_parallel_size=2")), {}, "abc", SHARED
    )
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_an_engine_alone_on_its_machine_keeps_the_binding_of_vllm() -> None:
    env = environment(engine_spec(gpus=()), {}, "abc", MACHINE)
    assert "VLLM_CPU_OMP_THREADS_BIND" not in env
    assert "OMP_NUM_THREADS" not in env
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "16"


def test_small_machines_still_get_a_kv_cache_and_a_thread() -> None:
    env = environment(engine_spec(gpus=()), {}, "abc", Machine(cores=2, memory=2 * GIB, engines=3))
    assert (env["VLLM_CPU_KVCACHE_SPACE"], env["OMP_NUM_THREADS"]) == ("1", "1")


def test_no_default_takes_the_place_of_what_the_user_set() -> None:
    spec = engine_spec(
        gpus=(), env={"VLLM_CPU_OMP_THREADS_BIND": "0-3"}, args=("--kv-cache-memory-bytes", "1G")
    )
    env = environment(spec, {"OMP_NUM_THREADS": "3"}, "abc", SHARED)
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"
    assert env["OMP_NUM_THREADS"] == "3"
    assert "VLLM_CPU_KVCACHE_SPACE" not in env


@pytest.mark.parametrize("gpus", [None, (0,)])
def test_defaults_for_cpus_stay_away_from_engines_on_gpus(gpus: tuple[int, ...] | None) -> None:
    spec = engine_spec(gpus=gpus)
    assert not {"VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS"} & environment(spec, {}, "abc", SHARED).keys()
    assert "--enforce-eager" not in command(spec, Machine(cores=1, memory=GIB, cxx=False))


def test_nothing_is_compiled_on_a_cpu_without_a_compiler() -> None:
    bare = Machine(cores=1, memory=GIB, cxx=False)
    assert "--enforce-eager" in command(engine_spec(gpus=()), bare)
    assert "--enforce-eager" not in command(engine_spec(gpus=()), MACHINE)
    chosen = engine_spec(gpus=(), args=("--no-enforce-eager",))
    assert "--enforce-eager" not in command(chosen, bare)


def test_api_key_is_found_where_vllm_looks() -> None:
    assert api_key(engine_spec(args=("--api-key", "k1"), env={"VLLM_API_KEY": "k2"}), {}) == "k1"
    assert api_key(engine_spec(env={"VLLM_API_KEY": "k2"}), {"VLLM_API_KEY": "k3"}) == "k2"
    assert api_key(engine_spec(), {"VLLM_API_KEY": "k3"}) == "k3"
    assert api_key(engine_spec(), {}) is None


def test_a_shown_command_line_holds_no_secret() -> None:
    words = ["serve", "m", "--api-key", "k1", "k2", "--hf-token=t", "--port", "1", "--trust-remote-code"]
    line = shown(words)
    assert not {"k1", "k2", "t"} & set(line.replace("=", " ").split())
    assert line == "serve m --api-key *** *** --hf-token=*** --port 1 --trust-remote-code"


def test_json_survives_as_one_argument() -> None:
    overrides = {"a b": ['"', "'"]}
    assert json.loads(cli_args({"hf_overrides": overrides})[1]) == overrides


@pytest.mark.parametrize("kind", ["vllm", "sim"])
def test_an_engine_with_tls_demands_its_clients_certificate_whatever_the_user_says(kind: str) -> None:
    tls = Tls(authority="a", ca="/a/ca.pem", certificate="/a/node.pem", key="/a/node.key")
    words = command(engine_spec(kind=kind, tls=tls, args=("--ssl-cert-reqs", "0", "--ssl-ca-certs=/other")))
    assert option(words, "--ssl-keyfile") == "/a/node.key"
    assert option(words, "--ssl-certfile") == "/a/node.pem"
    assert option(words, "--ssl-ca-certs") == "/a/ca.pem"
    assert option(words, "--ssl-cert-reqs") == "2"
    assert not [word for word in command(engine_spec(kind=kind)) if "ssl" in word]
