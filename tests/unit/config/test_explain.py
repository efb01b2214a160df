from __future__ import annotations

import json
from collections.abc import Callable

from shoal.config import Loaded, Setting

TEXT = """\
nodes:
  - host: 127.0.0.1
    port: ${PORT}
    gpus: ["${G}", 1]
model:
  path: ${MODEL:-org/tiny}
  args: {max_model_len: 5, hf-token: hunter2}
  env: {HF_TOKEN: hunter2, OMP: "${N}"}
cluster:
  name: ${A}-${B}
  secret: ${SECRET}
gateway:
  max_body:
"""
ENV = {"PORT": "8001", "G": "0", "N": "4", "A": "a", "B": "b", "SECRET": "hunter2hunter2hunter2"}


def by_name(load_text: Callable[..., Loaded], text: str = TEXT, **env: str) -> dict[str, Setting]:
    return {s.name: s for s in load_text(text, **ENV, **env).settings()}


def test_every_value_says_where_it_came_from(load_text: Callable[..., Loaded]) -> None:
    found = {name: str(s.source) for name, s in by_name(load_text).items()}
    assert found["nodes[0].host"] == "cluster.yaml:2"
    assert found["nodes[0].port"] == "environment variable PORT at cluster.yaml:3"
    assert found["nodes[0].gpus"] == "environment variable G at cluster.yaml:4"
    assert found["nodes[0].weight"] == "default"
    assert found["model.path"] == "cluster.yaml:6 (MODEL not set)"
    assert found["model.name"] == "default, from model.path"
    assert found["model.args.max_model_len"] == "cluster.yaml:7"
    assert found["model.env.OMP"] == "environment variable N at cluster.yaml:8"
    assert found["cluster.name"] == "environment variables A, B at cluster.yaml:10"
    assert found["gateway.max_body"] == "default"
    assert found["state_dir"] == "default"


def test_sources_can_be_read_by_programs(load_text: Callable[..., Loaded]) -> None:
    port = by_name(load_text)["nodes[0].port"].source
    assert (port.kind, port.line, port.variables) == ("environment", 3, ("PORT",))


def test_what_the_environment_gives_unasked_is_told_too(load_text: Callable[..., Loaded]) -> None:
    text = "nodes: [{host: ::1}]\nmodel: {path: a/b}\n"
    found = by_name(load_text, text, SHOAL_SECRET="x" * 16, XDG_STATE_HOME="/s")
    assert str(found["cluster.secret"].source) == "environment variable SHOAL_SECRET"
    assert str(found["state_dir"].source) == "default, from environment variable XDG_STATE_HOME"


def test_secrets_are_masked_wherever_they_are(load_text: Callable[..., Loaded]) -> None:
    text = TEXT + "  workers: 1\n"
    everything = by_name(load_text, text)
    assert "hunter2" not in repr(everything)
    assert everything["cluster.secret"].value == "(hidden)"
    assert everything["model.env.HF_TOKEN"].value == "(hidden)"


def test_secrets_in_lists_of_arguments_and_addresses_are_masked(load_text: Callable[..., Loaded]) -> None:
    found = by_name(
        load_text,
        """\
        nodes: [{host: ::1}]
        models:
          - {path: a/b, args: [--hf-token, hunter2, --hf-token=hunter2, --dtype, auto]}
          - {path: a/c, args: {nested: {api_key: hunter2}}}
          - {name: x, engine: external, addresses: [{url: "http://x", api_key: hunter2}]}
        """,
    )
    assert "hunter2" not in repr(found)
    assert found["models[0].args"].value == [
        "--hf-token",
        "(hidden)",
        "--hf-token=(hidden)",
        "--dtype",
        "auto",
    ]
    assert found["models[2].addresses[0].url"].value == "http://x"


def test_values_are_shown_as_people_write_them(load_text: Callable[..., Loaded]) -> None:
    found = by_name(load_text)
    assert found["gateway.max_body"].text == "64MiB"
    assert found["nodes[0].gpus"].text == "[0, 1]"
    assert found["nodes[0].bind"].text == "-"
    assert found["communication.timeout"].text == "30"
    assert found["model.share_gpus"].text == "false"


def test_values_fit_into_json(load_text: Callable[..., Loaded]) -> None:
    json.dumps([s.value for s in load_text(TEXT, **ENV).settings()])
