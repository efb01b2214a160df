"""`shoal plan` on the files under examples/plans: these are the plans that a reader is promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from shoal.cli.main import app
from support.models import SHAPES

PLANS = SHAPES.parent


def shoal(*arguments: object, **env: str) -> Result:
    return CliRunner(env={"SHOAL_SECRET": None, "HF_HUB_CACHE": "/nowhere", **env}).invoke(
        app, ["plan", *map(str, arguments)]
    )


def example(name: str, *more: str) -> Result:
    return shoal(PLANS / f"{name}.yaml", "--hardware", PLANS / f"{name}.hardware.yaml", *more)


def plan_of(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(example(name, "--json").stdout)
    return document


def engines(document: dict[str, Any]) -> list[tuple[str, list[int], int, str]]:
    return [
        (f"{n['name'].split('.')[0]}/{e['id']}", e["gpus"], e["tensor"], e["why"])
        for n in document["nodes"]
        for e in n["engines"]
    ]


def test_three_nodes_with_one_24_gb_gpu_do_not_hold_70_billion_parameters() -> None:
    result = example("three-24gb")
    assert result.exit_code == 1
    document = plan_of("three-24gb")
    assert engines(document) == []
    (refusal,) = document["refusals"]
    assert (refusal["by"], len(refusal["nodes"])) == ("shoal", 3)
    assert refusal["sentence"] == (
        "model Llama-3.3-70B needs 141 GB for its weights and about 1.8 GB to compute, its GPU (NVIDIA GeForce RTX "
        "4090) gives 23.7 GB (0.92 of 25.8 GB); the largest node gives 23.7 GB, all 3 together 71.1 GB"
    )
    assert refusal["nearest"] == [
        "a 4-bit (AWQ, GPTQ) checkpoint of it, about 40.1 GB, as one engine over 3 nodes, `nodes_per_engine: 3` "
        "(pipeline parallel 3 across) with `max_model_len: 63488`",
        "a node with 8 GPUs like this (NVIDIA GeForce RTX 4090) with `max_model_len: 97280`",
        "a model of up to about 18.2 GB of weights on one such GPU: 9 billion parameters in 16 bits",
    ]
    for part in (refusal["sentence"], *refusal["nearest"], "shoal serve refuses", "No engine starts."):
        assert part in " ".join(result.stdout.split())


def test_two_nodes_with_eight_80_gb_gpus_run_two_engines_of_four_gpus_each() -> None:
    result = example("two-8-gpu")
    assert result.exit_code == 0
    assert "Everything fits." in result.stdout
    document = plan_of("two-8-gpu")
    why = "auto: 4 GPUs are the fewest that hold it with room for requests"
    assert engines(document) == [
        ("node1/Llama-3.3-70B-0", [0, 1, 2, 3], 4, why),
        ("node1/Llama-3.3-70B-1", [4, 5, 6, 7], 4, why),
        ("node2/Llama-3.3-70B-0", [0, 1, 2, 3], 4, why),
        ("node2/Llama-3.3-70B-1", [4, 5, 6, 7], 4, why),
    ]
    fit = document["nodes"][0]["engines"][0]["fit"]
    assert fit["weights"] == pytest.approx(141.1e9 / 4, rel=0.01)
    # 80 layers x 2 x 2 heads a GPU x 128 x 2 bytes = 80 KiB a token and GPU
    assert fit["request"] == 131072 * 80 * 1024
    assert fit["tokens"] == pytest.approx(fit["cache"] / (80 * 1024), rel=0.001)
    assert (document["refusals"], document["notes"]) == ([], [])


def test_mixed_gpus_run_an_engine_each_and_get_weights() -> None:
    document = plan_of("mixed")
    one = "auto: one GPU holds it"
    assert engines(document) == [
        *((f"big/Llama-3.1-8B-{i}", [i], 1, one) for i in range(4)),
        ("small/Llama-3.1-8B-0", [0], 1, one),
    ]
    assert [e["weight"] for n in document["nodes"] for e in n["engines"]] == [6.8, 6.8, 1.0, 1.0, 2.9]
    assert document["refusals"] == []
    (note,) = document["notes"]
    assert note.endswith(
        "big.example.com:8000 on GPUs 0, 1 `weight: 6.8`, big.example.com:8000 on GPUs 2, 3 `weight: 1`, "
        "small.example.com:8000 on GPU 0 `weight: 2.9`."
    )


def test_cpus_run_an_engine_each() -> None:
    document = plan_of("cpu-only")
    assert engines(document) == [(f"node{i}/SmolLM2-1.7B-0", [], 1, "the node has no GPU") for i in (1, 2, 3)]
    fits = [n["engines"][0]["fit"] for n in document["nodes"]]
    # A quarter of the memory is for keys and values, in whole GiB: what `shoal serve` tells vLLM.
    assert [fit["cache"] // 2**30 for fit in fits] == [8, 8, 4]
    assert [n["engines"][0]["weight"] for n in document["nodes"]] == [2.0, 2.0, 1.0]
    assert (document["refusals"], document["notes"]) == ([], [])


def test_a_table_tells_what_each_engine_does_with_its_memory() -> None:
    out = example("two-8-gpu").stdout
    assert (
        "LlamaForCausalLM: 70.55 B parameters, 141 GB of weights (bfloat16), computed from its config.json"
        in out
    )
    assert (
        "80 layers, 64 heads, 8 KV heads; longest request 131072 tokens, 320 KiB of keys and values a token"
        in out
    )
    row = next(line for line in out.splitlines() if line.startswith("node1.example.com:8000/Llama-3.3-70B-1"))
    assert row.split()[1:6] == ["GPUs", "4-7", "TP", "4", "35.3"]
    assert "3.6 of 131072" in row


def test_a_model_that_is_not_here_is_said_to_be_unknown_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("nodes: [{host: 127.0.0.1}]\nmodel: {path: org/big}\n")
    result = shoal(tmp_path / "c.yaml")
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    assert "org/big is the id of a model on a hub that is not in this machine's cache" in said
    assert "(`--model DIR`)" in said
    assert "not everything could be told" in said
    given = shoal(tmp_path / "c.yaml", "--model", SHAPES / "SmolLM2-1.7B", "--json")
    assert json.loads(given.stdout)["models"][0]["parameters"] == 1_711_376_384
    named = shoal(tmp_path / "c.yaml", "--model", f"big={SHAPES / 'SmolLM2-1.7B'}", "--json")
    assert json.loads(named.stdout)["models"] == json.loads(given.stdout)["models"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name the cluster's file"),
        (["/nope.yaml"], "/nope.yaml: there is no such file"),
        ([PLANS / "mixed.yaml", "--hardware", "/nope.yaml"], "/nope.yaml: there is no such file"),
        (
            [PLANS / "mixed.yaml", "--hardware", PLANS / "cpu-only.hardware.yaml"],
            "is no node of the cluster's file",
        ),
        (
            [PLANS / "mixed.yaml", "--model", "other=/tmp"],
            "write NAME=DIR with the name of a model of the file",
        ),
        ([PLANS / "mixed.yaml", "--model", "/nope"], "/nope is not a directory on this machine"),
    ],
)
def test_what_is_wrong_with_files_is_told_in_words(arguments: list[object], told: str) -> None:
    result = shoal(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert told in result.stderr


def test_this_machine_describes_itself_in_a_form_that_can_be_read(tmp_path: Path) -> None:
    text = shoal("--print-hardware").stdout
    host = text.split()[2]
    (tmp_path / "c.yaml").write_text(f"nodes: [{{host: {host}}}]\nmodel: {{path: m, engine: sim}}\n")
    (tmp_path / "h.yaml").write_text(f"nodes:\n{text}")
    result = shoal(tmp_path / "c.yaml", "--hardware", tmp_path / "h.yaml", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["nodes"][0]["hardware"].endswith("of memory")


def test_without_a_description_other_machines_are_taken_as_equal_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "nodes: [{host: 127.0.0.1}, {host: 192.0.2.7}]\nmodel: {path: m, engine: sim}\n"
    )
    result = shoal(tmp_path / "c.yaml")
    assert result.exit_code == 0
    assert "192.0.2.7:8000 are taken as equal to this one" in result.stdout
    assert "Everything fits." in result.stdout
