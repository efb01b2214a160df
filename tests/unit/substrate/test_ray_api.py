"""What is told where Ray is missing or does not fit, and what a cluster on Ray is started with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.config.shared import validated
from shoal.substrate.driver import up
from shoal.substrate.ray_api import RayError, _refusal, document_of
from support.configs import config

TEXT = "nodes: [{host: a, port: 9000}, {host: b, role: standby}]\nmodel: {path: m, engine: sim}\n"


def test_missing_ray_is_one_line_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = tmp_path / "c.yaml"
    file.write_text(TEXT)
    for words in (["up", str(file)], ["down", str(file)]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert result.output == f"shoal {words[0]}: Ray is not installed here: pip install 'shoal[ray]'\n"


def test_another_version_is_told_with_both() -> None:
    text = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.61.0\n    Python: 3.12.1\n"
        "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    assert _refusal(None, RuntimeError(text)) == (
        "the Ray cluster has other versions than this installation: Ray: 2.61.0; Python: 3.12.1; Ray: 2.60.0; "
        "Python: 3.11.7. Install the same ones here."
    )


def test_the_nodes_of_the_file_give_only_the_port() -> None:
    document = document_of(config(TEXT))
    assert document["nodes"] == [{"host": "127.0.0.1", "port": 9000}]
    assert "state_dir" not in document  # each machine has its own
    made = validated(document)
    assert made.cluster.substrate == "ray" and [n.role for n in made.nodes] == ["serve"]
    assert document_of(config(TEXT + "state_dir: /somewhere\n"))["state_dir"] == "/somewhere"


def test_engines_that_do_not_divide_over_their_nodes_are_refused_before_ray_is_asked() -> None:
    sizes = "nodes_per_engine: 2, tensor_parallel: 3, pipeline_parallel: 1"
    text = f"nodes: [{{host: 127.0.0.1}}]\nmodel: {{path: m, engine: sim, {sizes}}}\ncluster: {{substrate: ray}}\n"
    with pytest.raises(RayError, match=r"does not go with Ray: model m: .* do not divide over 2 nodes"):
        up(config(text), None, 0, print)


def test_nobody_starts_a_node_of_ray_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_SUBSTRATE", raising=False)
    file = tmp_path / "c.yaml"
    file.write_text("nodes: [{host: 127.0.0.1}]\nmodel: {path: m, engine: sim}\ncluster: {substrate: ray}\n")
    result = CliRunner().invoke(app, ["serve", "--config", str(file)])
    assert result.exit_code == 2
    assert "`shoal up --on ray FILE` starts the nodes" in result.output
