"""The files under examples/ are what users copy: they load, and the complete one is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from shoal.config import load
from shoal.config.schema import Config
from shoal.config.shape import all_settings, shape_of

EXAMPLES = Path(__file__).parents[3] / "examples"
ENV = {"HOME": "/home/someone", "SHOAL_SECRET": "x" * 32, "CLOUD_API_KEY": "y" * 32}
OURS = [
    "three.yaml",
    "several-models.yaml",
    "hybrid.yaml",
    "simulated.yaml",
    "standby.yaml",
    "across-nodes.yaml",
    "reference.yaml",
    "transformer_xl/cluster.yaml",
]


@pytest.mark.parametrize("name", OURS)
def test_every_example_loads_and_may_be_served(name: str) -> None:
    load(EXAMPLES / name, ENV).require_servable()


def test_the_promised_file_is_the_one_of_the_design() -> None:
    assert (EXAMPLES / "three.yaml").read_text() == (
        "nodes:\n"
        "  - host: node1.example.com\n    port: 8000\n"
        "  - host: node2.example.com\n    port: 8001\n"
        "  - host: node3.example.com\n    port: 8002\n"
        "model:\n  path: /path/to/your/model\n  type: large\n"
        "communication:\n  protocol: tcp\n  timeout: 30\n"
    )


def test_the_reference_names_every_setting() -> None:
    data = YAML(typ="safe", pure=True).load((EXAMPLES / "reference.yaml").read_text())
    for path in all_settings():
        if path[0] == "models" or not {"addresses", "broker", "tls"}.isdisjoint(path[:-1]):
            continue
        value = data
        for step in path[:-1]:
            value = value[step]
        assert path[-1] in value, path


def test_the_reference_shows_the_defaults() -> None:
    shown = load(EXAMPLES / "reference.yaml", {"HOME": "/home/someone"}).config
    plain = Config.model_validate(
        {
            "nodes": [{"host": "127.0.0.1"}],
            "model": {"path": "/path/to/your/model"},
            "state_dir": str(shown.state_dir),
        }
    )
    assert shown == plain


def test_the_reference_gives_the_choices_of_every_word() -> None:
    text = (EXAMPLES / "reference.yaml").read_text()
    for path in all_settings():
        shape = shape_of(path)
        for word in getattr(shape.annotation, "__args__", ()) if shape else ():
            assert not isinstance(word, str) or word in text, f"{path}: {word}"
