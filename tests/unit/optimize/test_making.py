"""What happens around a job, with a stand-in for the interpreter that runs it; and what bad input gets."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.optimize import source as sources
from shoal.optimize.errors import OptimizeError
from shoal.optimize.source import require_memory
from shoal.optimize.worker import run_job
from support.models import llama_tensors, write_safetensors

# Gets what a job's interpreter gets: launcher, name of the job, channel; arguments on stdin.
STAND_IN = """
import json, os, pathlib, signal, sys
given, channel = json.load(sys.stdin), os.fdopen(int(sys.argv[3]), "w")
def say(**what):
    print(json.dumps(what), file=channel, flush=True)
say(what="works", done=1, of=2)
{rest}
"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}
WRITES = "(pathlib.Path(given['out']) / 'config.json').write_text('{}'); "


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(path / "model.safetensors", llama_tensors(CONFIG))
    return path


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], Path]:
    def make(rest: str) -> Path:
        program = tmp_path / "stand_in.py"
        program.write_text(STAND_IN.format(rest=rest))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {program} "$@"\n')
        python.chmod(0o755)
        return python

    return make


def shoal(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["optimize", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr.strip()


def test_a_job_tells_how_far_it_is_and_what_came_of_it(
    tmp_path: Path, stand_in: Callable[[str], Path]
) -> None:
    told: list[tuple[str, int, int]] = []
    python = stand_in("say(result={'given': given, 'name': sys.argv[2]})")
    result = run_job(python, "prune", {"a": 1}, tmp_path / "log", lambda *said: told.append(said))
    assert result == {"given": {"a": 1}, "name": "prune"}
    assert told == [("works", 1, 2)]


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("say(error='no text; give more')", "^no text; give more$"),
        (
            "print('first'); sys.exit('ValueError: odd shapes')",
            "prune failed: ValueError: odd shapes; all it said is in",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "it was killed, most likely for lack of memory"),
        ("sys.exit(3)", "exit status 3"),
    ],
)
def test_a_job_that_fails_is_told_in_one_line(
    tmp_path: Path, stand_in: Callable[[str], Path], rest: str, words: str
) -> None:
    with pytest.raises(OptimizeError, match=words) as caught:
        run_job(stand_in(rest), "prune", {}, tmp_path / "log", lambda *_: None)
    assert "\n" not in str(caught.value)


def test_a_result_has_a_card_and_appears_whole(
    tmp_path: Path, model: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = "{'parameters': [10, 5], 'perplexity': [1.0, 2.0]}"
    python = stand_in(f"assert not os.path.exists('{tmp_path}/out'); {WRITES} say(result={result})")
    status, _ = shoal("prune", model, "-o", tmp_path / "out", "--layers", 2, "--python", python)
    assert status == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Pruned" in card
    assert "| layers | 2 |" in card
    assert "shoal optimize evaluate model out" in card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "model", "out", "python", "stand_in.py"]


def test_sparsity_is_a_job_of_its_own_and_says_that_it_brings_no_speed(
    tmp_path: Path, model: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checks = "assert (sys.argv[2], given['share'], given['pattern'], given['method']) == "
    checks += "('sparsify', 0.5, '2:4', 'wanda')"
    result = "{'perplexity': [1.0, 2.0], 'zeros': 0.5}"
    python = stand_in(f"{checks}; {WRITES} say(result={result})")
    words = ("prune", model, "-o", tmp_path / "out", "--sparsity", "2:4", "--method", "wanda")
    status, said = shoal(*words, "--python", python)
    assert (status, "as if it were dense" in said) == (0, True), said
    assert "# Sparse (2:4, wanda)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("rest", [f"{WRITES} say(error='no')", f"{WRITES} os.kill(os.getpid(), 9)"])
def test_of_a_failure_nothing_is_left(
    tmp_path: Path, model: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    status, said = shoal("prune", model, "-o", tmp_path / "out", "--python", stand_in(rest))
    assert status == 2
    assert said.splitlines()[-1].startswith("shoal optimize: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "model", "python", "stand_in.py"]


def test_bad_input_gets_one_line_with_what_to_do(tmp_path: Path, model: Path) -> None:
    empty, full, bert, quantised, bare = (
        tmp_path / n for n in ("empty", "full", "bert", "quantised", "bare")
    )
    for path in (empty, full, bert, quantised, bare):
        path.mkdir()
    (full / "something").touch()
    (bare / "config.json").write_text(json.dumps(CONFIG))
    changes = {bert: {"architectures": ["BertModel"], "model_type": "bert"}}
    changes[quantised] = {"quantization_config": {"quant_method": "gptq", "bits": 4}}  # type: ignore[dict-item]
    for path, change in changes.items():
        (path / "config.json").write_text(json.dumps(CONFIG | change))
        write_safetensors(path / "model.safetensors", llama_tensors(CONFIG))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(CONFIG | {"model_type": "gpt_neox"}))
    write_safetensors(other / "model.safetensors", llama_tensors(CONFIG))
    out = ("-o", tmp_path / "new")
    for words, expected in (
        (("quantize", tmp_path / "no", *out), "is no directory; name the directory of a model"),
        (("quantize", empty, *out), "holds no config.json"),
        (("quantize", bare, *out), "holds no *.safetensors"),
        (("quantize", bert, *out), "BertModel, which generates no text"),
        (("quantize", quantised, *out), "is quantised already (gptq)"),
        (("quantize", model, "-o", full), "is there already and not empty; name another directory"),
        (("quantize", model, *out, "--text", tmp_path / "no"), "is no file; --text takes"),
        (("prune", other, *out), "can be changed for llama, mistral, qwen2, qwen3 only"),
        (("prune", model, *out, "--layers", 4), "has 4 layers, so 4 cannot go"),
        (
            ("quantize", model, *out, "--scheme", "w4a16", "--group-size", 48),
            "groups of 48 do not fit this model",
        ),
        (
            ("prune", model, *out, "--sparsity", "4:2"),
            "--sparsity 4:2: write 2:4, or a share between 0 and 1",
        ),
        (("prune", model, *out, "--sparsity", "0.5", "--by", "0.25"), "are two commands"),
        (("rollout", empty, "-c", model / "config.json"), "is no directory of a model"),
        (("rollout", model, "-c", model / "config.json", "--arg", "x"), "--arg x: write NAME=VALUE"),
        (("distill", model, *out), "name either a STUDENT, or with --layers"),
        (("distill", model, model, *out, "--layers", 2), "name either a STUDENT, or with --layers"),
        (("distill", model, *out, "--layers", 5), "has 4 layers, so --layers 5 is not possible"),
        (("evaluate", model, empty), "is no directory of a model"),
        (("evaluate", model, model, "--max-perplexity-rise", "x"), "is no share; write 3% or 0.03"),
    ):
        status, said = shoal(*words)
        assert (status, expected in said, "\n" in said) == (2, True, False), said
    assert not (tmp_path / "new").exists()


def test_a_training_with_other_settings_is_not_gone_on_with(
    tmp_path: Path, model: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("distill", model, "-o", tmp_path / "out", "--layers", 2)
    broken = stand_in("pathlib.Path(given['checkpoints'], 'checkpoint.pt').touch(); say(error='stopped')")
    assert shoal(*words, "--python", broken)[0] == 2
    status, said = shoal(*words, "--steps", 7, "--python", broken)
    assert (status, "a training with other settings" in said) == (2, True)
    numbers = "{'perplexity': {'before': 3.0, 'after': 2.0, 'teacher': 1.0}}"
    whole = stand_in(
        f"assert pathlib.Path(given['checkpoints'], 'checkpoint.pt').exists(); say(result={numbers})"
    )
    assert shoal(*words, "--python", whole)[0] == 0
    assert not (tmp_path / "out.checkpoints").exists()


def test_memory_is_looked_at_before_anything_is_loaded(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptimizeError, match=r"distill it needs about 8\.0 GB of memory, 7\.0 GB are free"):
        require_memory("to distill", 8e9, int(7e9))
    monkeypatch.setattr(sources.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    status, said = shoal("prune", model, "-o", tmp_path / "new", "--python", "/no/such/python")
    assert (status, "of memory, 0.0 GB are free" in said) == (2, True), said
