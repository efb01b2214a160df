import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from shoal.config import Config
from shoal.engine.spec import Tls
from shoal.node.errors import StartError
from shoal.node.placement import Placement
from shoal.node.specs import engine_spec, require_startable, weights_size
from support.configs import config


def one(model: str) -> Config:
    return config(f"nodes: [{{host: 127.0.0.1}}]\nmodel: {model}")


def test_a_spec_holds_all_it_takes_to_start_the_engine():
    c = one("{path: /models/m, name: chat, args: {max_model_len: 2048}, env: {A: b}}")
    spec = engine_spec(Placement("chat-0", c.models[0], (1,)), c, "10.0.0.1")
    assert (spec.id, spec.model, spec.served_name, spec.model_path) == ("chat-0", "chat", "chat", "/models/m")
    assert (spec.args, spec.env, spec.gpus) == (("--max-model-len", "2048"), {"A": "b"}, (1,))
    assert (spec.host, spec.port) == ("10.0.0.1", 0)


def test_an_engine_over_several_gpus_is_tensor_parallel_unless_the_user_said_how():
    c = one("{path: m}")
    assert engine_spec(Placement("m-0", c.models[0], (0, 1)), c, "h").args == ("--tensor-parallel-size", "2")
    own = one("{path: m, args: {pipeline_parallel_size: 2}}")
    args = engine_spec(Placement("m-0", own.models[0], (0, 1)), own, "h").args
    assert args == ("--pipeline-parallel-size", "2")


def test_a_spec_has_the_certificates_it_is_given():
    c = one("{path: m}")
    tls = Tls(authority="a", ca="ca", certificate="pem", key="key")
    assert engine_spec(Placement("m-0", c.models[0]), c, "h", tls).tls == tls
    assert engine_spec(Placement("m-0", c.models[0]), c, "h").tls is None


def test_a_data_parallel_engine_is_tensor_parallel_over_what_each_rank_has():
    moe = one("{path: m, args: {data_parallel_size: 2}}")
    for gpus, tensor in (((0, 1, 2, 3), ("--tensor-parallel-size", "2")), ((0, 1), ())):
        spec = engine_spec(Placement("m-0", moe.models[0], gpus), moe, "h")
        assert spec.args == (*tensor, "--data-parallel-size", "2")


def test_a_changed_argument_changes_the_fingerprint():
    def fingerprint(length: int) -> str:
        c = one(f"{{path: m, args: {{max_model_len: {length}}}}}")
        return engine_spec(Placement("m-0", c.models[0]), c, "h").fingerprint()

    assert fingerprint(1) == fingerprint(1) != fingerprint(2)


def test_a_model_that_is_not_there_or_no_vllm_is_told_before_anything_starts(tmp_path: Path):
    def startable(path: str, python: str) -> None:
        c = one(f"{{path: {path}}}")
        spec = engine_spec(Placement("m-0", c.models[0]), c, "h")
        require_startable([msgspec.structs.replace(spec, python=python)])

    with pytest.raises(StartError, match="/no/such/model does not exist on this machine"):
        startable("/no/such/model", "/other/python")
    startable(str(tmp_path), "/other/python")
    startable("org/model-on-a-hub", "/other/python")
    if find_spec("vllm") is None:
        with pytest.raises(StartError, match=r"engines\.python"):
            startable(str(tmp_path), sys.executable)
    else:
        startable(str(tmp_path), sys.executable)


def test_weights_are_the_sum_of_the_files_of_one_format(tmp_path: Path):
    assert weights_size(tmp_path) is None
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 5)
    assert weights_size(tmp_path) == 5
    for i in range(2):
        (tmp_path / f"model-{i}.safetensors").write_bytes(b"x" * 7)
    assert weights_size(tmp_path) == 14


def test_of_a_command_the_spec_has_the_words_and_its_program_must_be_there():
    c = one("{name: x, engine: command, command: 'no-such-program {port}', health: /ready}")
    spec = engine_spec(Placement("x-0", c.models[0]), c, "h")
    assert (spec.kind, spec.args, spec.health, spec.model_path) == (
        "command",
        ("no-such-program", "{port}"),
        "/ready",
        "",
    )
    with pytest.raises(StartError, match="there is no program no-such-program"):
        require_startable([spec])
    require_startable([msgspec.structs.replace(spec, args=(sys.executable, "{port}"))])
    require_startable([msgspec.structs.replace(spec, args=("sh", "{port}"))])
