from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal.config import Loaded

Told = Callable[..., list[str]]
NODES = (
    "nodes: [{host: 127.0.0.1}, {host: 127.0.0.1, port: 8001, role: standby}, {host: ::1, role: gateway}]\n"
)
MODEL = "model: {path: a/b}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nodes: [{host: A.example}, {host: a.example}]\n" + MODEL,
            "1:35: nodes[1] and nodes[0] are both a.example:8000",
        ),
        (NODES, "1:1: there is no model"),
        (NODES + "models: []\n", "2:9: there is no model"),
        (NODES + MODEL + "models: [{path: a/c}]\n", "3:9: give either `model` (one) or `models`"),
        (NODES + "models: [{path: a/x}, {path: b/x}]\n", '2:30: models[1] and models[0] are both called "x"'),
        (
            NODES + "models: [{path: a/x}, {path: b/y, name: x}]\n",
            '2:41: models[1] and models[0] are both called "x"',
        ),
        ("nodes: [{host: ::1, role: standby}]\n" + MODEL, "1:27: no node has the role serve"),
        (
            NODES + "model: {name: x, engine: external}\n",
            "2:26: model has engine external, so it needs `addresses`",
        ),
        (
            NODES + "model: {name: x, engine: command}\n",
            "2:26: model has engine command, so it needs a `command`",
        ),
        (
            NODES + "model: {name: x, engine: command, command: 'p {prot} {port}'}\n",
            "2:44: `model.command` has {prot}; what can be filled in is {host}, {port}, {model}, {name}, {gpus}",
        ),
        (
            NODES + "model: {name: x, engine: command, command: p}\n",
            "2:44: `model.command` must have {port} in it",
        ),
        (NODES + "model: {name: x, engine: command, command: 'p {port} {model}'}\n", "model needs a `path`"),
        (NODES + "model: {engine: command, command: 'p {port}'}\n", "2:8: model needs a `name`"),
        (
            NODES + "model: {name: x, engine: command, command: 'p {port}', args: {a: 1}}\n",
            "2:62: `model.args` has no effect with `engine: command`",
        ),
        (NODES + "model: {path: a/b, command: 'p {port}'}\n", "2:29: `model.command` has no effect without"),
        (NODES + "model: {path: a/b, health: /x}\n", "2:28: `model.health` has no effect without"),
        (NODES + "model: {type: large}\n", "2:8: model needs a `path`"),
        (NODES + "model: {engine: sim}\n", "2:8: model needs a `path`"),
        (
            NODES + "model: {path: a/b, addresses: [{url: 'http://x'}]}\n",
            "2:31: `model.addresses` is only for external engines",
        ),
        (
            NODES
            + "model: {name: x, engine: external, addresses: [{url: 'http://x'}, {url: 'http://x/'}]}\n",
            "2:73: http://x is there twice",
        ),
        (NODES + "model: {engine: external, addresses: [{url: 'http://x'}]}\n", "2:8: model needs a `name`"),
        (
            NODES + "model: {path: a/b, nodes: ['127.0.0.1:80000']}\n",
            '2:28: `model.nodes[0]` is "127.0.0.1:80000", which is no node; did you mean 127.0.0.1:8000?',
        ),
        (
            NODES + "model: {path: a/b, nodes: [zzzz]}\n",
            "the nodes are 127.0.0.1:8000, 127.0.0.1:8001, ::1:8000",
        ),
        (
            NODES + "model: {path: a/b, nodes: ['::1:8000']}\n",
            "2:28: `model.nodes[0]` is ::1:8000, a gateway",
        ),
        (
            NODES + "model: {path: a/b, nodes: ['127.0.0.1:8001']}\n",
            "2:28: `model.nodes[0]` is 127.0.0.1:8001, a standby, which runs what the node runs that it takes over",
        ),
        (
            "nodes: [{host: 127.0.0.1, standby: hot}]\n" + MODEL,
            "1:36: `nodes[0].standby` is hot, but node 127.0.0.1:8000 has the role serve; write `role: standby`",
        ),
        (
            "nodes: [{host: 127.0.0.1}, {host: ::1, role: standby}]\n"
            "model: {name: x, engine: external, addresses: [{url: 'http://x'}]}\n",
            "1:46: node ::1:8000 is a standby, but all engines are external, so there is nothing it could take over",
        ),
        (
            "nodes: [{host: 127.0.0.1}, {host: ::1, role: standby, gpus: [0]}]\n"
            "model: {path: a/b, gpus_per_engine: 2}\n",
            "1:61: node ::1:8000 has 1 GPUs in `gpus`, the models it may have to run ask for 2",
        ),
        (
            NODES + "model: {path: a/b, args: {port: 1}}\n",
            "2:33: `model.args.port`: --port cannot be set here",
        ),
        (
            NODES + "model: {path: a/b, args: [-x, --port=1]}\n",
            "2:31: `model.args[1]`: --port cannot be set here",
        ),
        (
            NODES + "model: {path: a/b, env: {CUDA_VISIBLE_DEVICES: 1}}\n",
            "2:48: `model.env.CUDA_VISIBLE_DEVICES` cannot be set here",
        ),
        (
            NODES + MODEL + "engines: {ports: [3000, 2000]}\n",
            "3:18: `engines.ports` is [3000, 2000]; the first port",
        ),
        (NODES + MODEL + "engines: {ports: [8001, 9000]}\n", "1:52: `nodes[1].port` is 8001, which is among"),
        (NODES + MODEL + "engines: {ports: [8000, 8000]}\n", "3:18: `nodes[0].port` is 8000, which is among"),
        (
            "nodes: [{host: ::1, gpus: [0, 1]}]\nmodel: {path: a/b, gpus_per_engine: 2, engines_per_node: 2}\n",
            "1:27: node ::1:8000 has 2 GPUs in `gpus`, its models ask for 4 (b 4)",
        ),
    ],
)
def test_rules_between_settings_are_told_with_their_place(told: Told, text: str, message: str) -> None:
    assert any(message in line for line in told(text)), told(text)


@pytest.mark.parametrize(
    "setting",
    [
        "engines_per_node: 1",
        "gpus_per_engine: 1",
        "share_gpus: true",
        "nodes: ['127.0.0.1:8000']",
        "args: {a: 1}",
        "env: {A: 1}",
    ],
)
def test_external_engines_take_no_settings_of_own_ones(told: Told, setting: str) -> None:
    (message,) = told(
        "nodes: [{host: 127.0.0.1}]\n"
        f"model: {{name: x, engine: external, addresses: [{{url: 'http://x'}}], {setting}}}\n"
    )
    assert "has no effect on external engines" in message


@pytest.mark.parametrize("setting", ["type: xlarge", "nodes_per_engine: 2"])
def test_only_vllm_forms_engines_across_nodes(told: Told, setting: str) -> None:
    (message,) = told(
        "nodes: [{host: ::1}, {host: ::1, port: 1}]\n"
        f"model: {{name: x, engine: command, command: 'prog --port {{port}}', {setting}}}\n"
    )
    assert "across 2 nodes, which only vLLM forms" in message


@pytest.mark.parametrize(
    "text",
    [
        "nodes: [{host: ::1, role: gateway}]\nmodel: {name: x, engine: external, addresses: [{url: 'http://x'}]}\n",
        NODES + "model: {path: a/b, nodes: ['127.0.0.1:8000']}\n",
        "nodes: [{host: ::1}, {host: 127.0.0.1}]\nmodel: {path: a/b, type: xlarge}\n",
        "nodes: [{host: ::1, gpus: [0]}]\nmodel: {path: a/b, gpus_per_engine: 2, share_gpus: true}\n",
        "nodes: [{host: ::1, gpus: []}]\nmodel: {path: a/b, gpus_per_engine: 2}\n",
        "nodes: [{host: ::1}, {host: ::1, port: 1}]\n" + MODEL,
    ],
)
def test_what_makes_sense_is_allowed(told: Told, text: str) -> None:
    assert told(text) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("nodes: [{host: 5}, {host: 5}]\n" + MODEL, 2),  # not also "both are the same node"
        (NODES + "model: 5\n", 1),  # not also "there is no model"
        ("nodes: [{host: ::1, role: x}]\n" + MODEL, 1),
        ("nodes: [{host: 5}]\nmodel: {path: a/b, nodes: ['5:8000']}\n", 1),
        (NODES + "model: {path: [], engine: x}\n", 2),
        (NODES + MODEL + "cluster: {heartbeat_interval: x, confirm_timeout: 50}\n", 1),
    ],
)
def test_what_only_follows_from_another_problem_is_not_told(told: Told, text: str, lines: int) -> None:
    assert len(told(text)) == lines, told(text)


def test_rules_are_told_together_with_wrong_values_elsewhere(told: Told) -> None:
    lines = told(
        "nodes: [{host: ::1, prot: 1}, {host: ::1}]\n" + MODEL + "gateway: {workers: x}\ntimeout: 5\n"
    )
    assert [line.split(":")[0] for line in lines] == ["1", "1", "3", "4"]


@pytest.mark.parametrize("nodes", ["{host: 10.0.0.1}", "{host: node1}", "{host: 127.0.0.1, bind: 0.0.0.0}"])
def test_a_cluster_off_loopback_loads_but_needs_a_secret_to_start(
    load_text: Callable[..., Loaded], nodes: str
) -> None:
    text = f"nodes: [{{host: ::1}}, {nodes}]\n" + MODEL
    (problem,) = load_text(text).serving_problems()
    assert "openssl rand -hex 32" in problem.message
    assert "SHOAL_SECRET" in problem.message
    assert problem.line == 1
    assert load_text(text + "cluster: {secret: 0123456789abcdef}\n").serving_problems() == ()
    assert load_text(text, SHOAL_SECRET="0123456789abcdef").serving_problems() == ()


def test_a_cluster_on_loopback_starts_without_a_secret(load_text: Callable[..., Loaded]) -> None:
    loaded = load_text(
        "nodes: [{host: ::1}, {host: localhost}, {host: 127.0.0.5, bind: 127.0.0.1}]\n" + MODEL
    )
    assert loaded.serving_problems() == ()
    loaded.require_servable()


def test_certificates_need_a_secret(load_text: Callable[..., Loaded]) -> None:
    text = "nodes: [{host: ::1}]\n" + MODEL + "cluster: {tls: on}\n"
    (problem,) = load_text(text).serving_problems()
    assert problem.message.startswith(
        "`cluster.tls` is on, and certificates are made from the cluster's secret"
    )
    assert "openssl rand -hex 32" in problem.message
    assert problem.line == 3
    assert load_text(text, SHOAL_SECRET="0123456789abcdef").serving_problems() == ()


@pytest.mark.parametrize(
    ("nodes", "tls", "speaks"),
    [
        ("{host: 127.0.0.1}, {host: ::1}, {host: localhost}", "auto", False),
        ("{host: 127.0.0.1}, {host: 127.0.0.2, bind: 127.0.0.3}", "auto", False),
        ("{host: 127.0.0.1}, {host: 10.0.0.1}", "auto", True),
        ("{host: 10.0.0.1}", "auto", True),
        ("{host: node1}, {host: node2}", "auto", True),
        ("{host: 127.0.0.1, bind: 0.0.0.0}", "auto", True),
        ("{host: node1}", "off", False),
        ("{host: 127.0.0.1}", "on", True),
    ],
)
def test_engines_speak_tls_by_themselves_where_other_machines_can_reach_them(
    load_text: Callable[..., Loaded], nodes: str, tls: str, speaks: bool
) -> None:
    text = f"nodes: [{nodes}]\n" + MODEL + f"cluster: {{tls: {tls}}}\n"
    assert load_text(text, SHOAL_SECRET="0123456789abcdef").config.engines_speak_tls is speaks
