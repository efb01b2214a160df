"""Settings of models and clusters on Ray."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal.config.replicas import Replicas
from shoal.config.schema import Config

Told = Callable[..., list[str]]
ON_RAY = "nodes: [{host: 127.0.0.1}, {host: 127.0.0.1, port: 8001}]\ncluster: {substrate: ray}\n"


@pytest.mark.parametrize(
    ("given", "bounds"),
    [({}, None), ({"min": 2}, (2, 2)), ({"max": 3}, (1, 3)), ({"min": 2, "max": 3}, (2, 3))],
)
def test_bounds(given: dict[str, int], bounds: tuple[int, int] | None) -> None:
    assert Replicas(**given).bounds == bounds


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("replicas: {min: 3, max: 2}", "`model.replicas.min` is 3 and `model.replicas.max` is 2"),
        ("replicas: {down_after: 5}", "`model.replicas.down_after` is 5"),
        ("nodes: ['127.0.0.1:8000']", "`model.nodes` names nodes, and on Ray the nodes are Ray's"),
        ("type: xlarge", "`model.type` asks for one engine across all nodes, and on Ray nodes come and go"),
        ("nodes_per_engine: 2, executor: ray", "`model.executor` would start a Ray of the engine's own"),
        (
            "min_engines: 4, replicas: {max: 3}",
            "`model.min_engines` is 4, and `model.replicas.max` is 3",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_place(told: Told, model: str, message: str) -> None:
    (line,) = told(ON_RAY + f"model: {{path: a, {model}}}\n")
    assert line.startswith("3:") and message in line


def test_on_ray_an_engine_may_span_more_nodes_than_the_file_names(told: Told) -> None:
    assert told(ON_RAY + "model: {path: a, type: xlarge, nodes_per_engine: 5, replicas: {max: 4}}\n") == []


def test_without_ray_replicas_say_nothing() -> None:
    Config.model_validate(
        {
            "nodes": [{"host": "a"}, {"host": "b"}],
            "model": {"path": "m", "type": "xlarge", "replicas": {"max": 9}},
        }
    )
