from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest
from pydantic import ValidationError

from shoal.config.schema import Config, Gateway, Section
from shoal.config.shape import all_settings, fields_of, shape_of

ConfigOf = Callable[..., Config]
Told = Callable[..., list[str]]

CONTRACT = """\
nodes:
  - host: node1.example.com
    port: 8000
  - host: node2.example.com
    port: 8001
  - host: node3.example.com
    port: 8002
model:
  path: /path/to/your/model
  type: large
communication:
  protocol: tcp
  timeout: 30
"""
MINIMAL = "nodes: [{host: 127.0.0.1}]\nmodel: {path: a/b}\n"


def test_the_promised_file_loads_unchanged(config_of: ConfigOf) -> None:
    config = config_of(CONTRACT)
    assert [n.name for n in config.nodes] == [
        "node1.example.com:8000",
        "node2.example.com:8001",
        "node3.example.com:8002",
    ]
    (model,) = config.models
    assert (model.path, model.name, model.type) == ("/path/to/your/model", "model", "large")
    assert (config.communication.protocol, config.communication.timeout) == ("tcp", 30.0)


def test_the_defaults_are_the_documented_ones(config_of: ConfigOf) -> None:
    config = config_of(MINIMAL)
    cluster, gateway, engines, recovery = config.cluster, config.gateway, config.engines, config.recovery
    assert (config.nodes[0].port, config.nodes[0].weight, config.nodes[0].role) == (8000, 1.0, "serve")
    assert (cluster.name, cluster.secret, cluster.heartbeat_interval) == ("shoal", None, 0.5)
    assert (cluster.suspect_after, cluster.confirm_timeout, cluster.leave_after) == (3, 0.4, 300)
    assert (gateway.workers, gateway.max_body, gateway.max_header) == ("auto", 64 * 1024**2, 64 * 1024)
    assert (gateway.connect_timeout, gateway.idle_timeout, gateway.header_timeout) == (1.0, 75, 20)
    assert (gateway.keepalive, gateway.max_attempts) == (256, 3)
    assert (engines.python, engines.ports, engines.start_timeout) == (None, (20000, 20999), 900)
    assert (engines.probe_interval, engines.probe_timeout) == (1.0, 5.0)
    assert (engines.log_max_size, engines.log_files) == (20 * 1024**2, 3)
    assert (recovery.restart_delay, recovery.restart_delay_max) == (1.0, 60)
    assert (recovery.healthy_after, recovery.drain_timeout) == (120, 30)
    assert (config.routing.policy, config.logging.level, config.logging.format) == (
        "prefix_affinity",
        "info",
        "auto",
    )
    assert not config.routing.allow_override
    assert (config.routing.session_header, config.routing.prefix_memory) == ("x-session-id", 64 * 1024**2)


def test_a_loss_is_noticed_within_two_seconds_by_default(config_of: ConfigOf) -> None:
    assert config_of(MINIMAL).cluster.detection_time == pytest.approx(1.9)


def test_every_setting_is_described() -> None:
    for path in all_settings():
        if path[-1] == 0:
            continue
        parent = shape_of(path[:-1])
        assert parent is not None
        assert parent.section is not None
        field = fields_of(parent.section)[str(path[-1])]
        assert field.description, path


def test_times_are_floats_even_by_default(config_of: ConfigOf) -> None:
    config = config_of(MINIMAL)
    for path in all_settings():
        shape = shape_of(path)
        if shape is not None and shape.annotation is float and path[0] not in ("model", "models", "nodes"):
            assert isinstance(reduce(getattr, map(str, path), config), float), path


def test_a_configuration_cannot_be_changed(config_of: ConfigOf) -> None:
    config = config_of(MINIMAL)
    with pytest.raises(ValidationError):
        config.cluster.name = "other"  # type: ignore[misc]


def test_models_are_a_tuple_in_either_form(config_of: ConfigOf) -> None:
    several = "nodes: [{host: 127.0.0.1}]\nmodels: [{path: a/b}, {path: a/c}]\n"
    assert [m.name for m in config_of(MINIMAL).models] == ["b"]
    assert [m.name for m in config_of(several).models] == ["b", "c"]
    assert [p for p, _ in config_of(several).located_models()] == [("models", 0), ("models", 1)]


def test_nodes_are_found_by_name(config_of: ConfigOf) -> None:
    config = config_of(CONTRACT)
    assert config.node("node2.example.com:8001") is config.nodes[1]
    assert config.node("node2.example.com:8000") is None


def test_a_model_runs_on_the_nodes_it_names_or_on_all_that_serve(config_of: ConfigOf) -> None:
    config = config_of("""
        nodes:
          - {host: 127.0.0.1}
          - {host: 127.0.0.2, role: standby}
          - {host: 127.0.0.3, role: gateway}
          - {host: 127.0.0.4}
        models:
          - path: a/b
          - {path: a/c, nodes: ["127.0.0.4:8000"]}
          - {name: x, engine: external, addresses: [{url: "http://x"}]}
    """)
    assert [[n.host for n in config.nodes_of(m)] for m in config.models] == [
        ["127.0.0.1", "127.0.0.4"],
        ["127.0.0.4"],
        [],
    ]
    assert [[m.name for m in config.models_of(n)] for n in config.nodes] == [["b"], [], [], ["b", "c"]]


def test_a_warm_standby_runs_what_the_node_runs_that_it_takes_over_for_and_a_hot_one_everything(
    config_of: ConfigOf,
) -> None:
    config = config_of("""
        nodes:
          - {host: 127.0.0.1}
          - {host: 127.0.0.2, role: standby}
          - {host: 127.0.0.3, role: standby, standby: hot}
          - {host: 127.0.0.4}
          - {host: 127.0.0.5, role: gateway}
        models: [{path: a/b, nodes: ["127.0.0.1:8000"]}, {path: a/c, nodes: ["127.0.0.4:8000"]}]
    """)

    def duties(index: int) -> dict[str, list[str]]:
        return {k: [m.name for m in v] for k, v in config.duties_of(config.nodes[index]).items()}

    first, fourth = "127.0.0.1:8000", "127.0.0.4:8000"
    assert duties(0) == {"": ["b"]}
    assert duties(1) == {"": [], first: ["b"], fourth: ["c"]}
    assert duties(2) == {"": ["b", "c"], first: ["b", "c"], fourth: ["b", "c"]}
    assert duties(4) == {"": []}


def test_each_node_has_a_state_directory_of_its_own(config_of: ConfigOf) -> None:
    config = config_of(MINIMAL + "state_dir: /var/shoal\n")
    assert config.state_dir_of("127.0.0.1:8000") == Path("/var/shoal/127.0.0.1_8000")
    assert config.state_dir_of("::1:8000") == Path("/var/shoal/::1_8000")
    assert config.state_dir_of("../../etc:1").parent == Path("/var/shoal")


def test_the_state_directory_follows_home_and_the_file(config_of: ConfigOf, tmp_path: Path) -> None:
    assert config_of(MINIMAL).state_dir == Path("/home/someone/.local/state/shoal")
    assert config_of(MINIMAL, XDG_STATE_HOME="/s").state_dir == Path("/s/shoal")
    assert config_of(MINIMAL + "state_dir: ~/x\n").state_dir == Path("/home/someone/x")
    assert config_of(MINIMAL + "state_dir: x\n").state_dir == tmp_path / "x"


def test_workers_are_half_the_cores_up_to_four_or_what_the_file_says() -> None:
    assert [Gateway().worker_count(cores) for cores in (1, 2, 4, 7, 64)] == [1, 1, 2, 3, 4]
    assert Gateway(workers=9).worker_count(1) == 9


def test_variables_have_the_type_of_their_setting(config_of: ConfigOf) -> None:
    config = config_of(
        """
        nodes: [{host: "${H}", port: "${P}", weight: "${W}", gpus: ["${G}"]}]
        model: {path: "${M}", share_gpus: "${B}"}
        cluster: {secret: "${S}", name: "${P}"}
        gateway: {max_body: "${SIZE}", workers: "${P2}"}
        engines: {ports: ["${A}", "${Z}"]}
        state_dir: ${P}
        """,
        **{"H": "127.0.0.1", "P": "8000", "W": "2", "G": "0", "M": "1/2", "B": "true", "S": "1" * 16},
        **{"SIZE": "4MiB", "P2": "2", "A": "30000", "Z": "30010"},
    )
    node = config.nodes[0]
    assert (node.port, node.weight, node.gpus) == (8000, 2.0, (0,))
    assert (config.models[0].path, config.models[0].share_gpus) == ("1/2", True)
    assert (config.cluster.secret, config.cluster.name) == ("1" * 16, "8000")
    assert (config.gateway.max_body, config.gateway.workers) == (4 * 1024**2, 2)
    assert config.engines.ports == (30000, 30010)
    assert config.state_dir.name == "8000"
    assert type(config.cluster.secret) is str


def test_an_empty_section_or_setting_means_the_default(config_of: ConfigOf) -> None:
    config = config_of(MINIMAL + "cluster:\ngateway:\n  workers:\n  max_body: null\nlogging: ~\n")
    assert config == config_of(MINIMAL)


@pytest.mark.parametrize(
    "changed",
    [
        CONTRACT.replace("8002", "8003"),
        CONTRACT.replace("your/model", "your/other"),
        CONTRACT.replace("large", "small"),
        CONTRACT.replace("    port: 8002\n", "    port: 8002\n    role: standby\n"),
        CONTRACT.replace("timeout: 30", "timeout: 31"),
        CONTRACT + "cluster: {name: other}\n",
        CONTRACT + "cluster: {heartbeat_interval: 0.6}\n",
        CONTRACT + "cluster: {tls: off}\n",
        CONTRACT + "routing: {policy: round_robin}\n",
        CONTRACT.replace("  type: large", "  type: large\n  args: {max_model_len: 5}"),
    ],
)
def test_the_hash_covers_what_nodes_must_agree_on(config_of: ConfigOf, changed: str) -> None:
    assert config_of(changed).agreed_hash() != config_of(CONTRACT).agreed_hash()


@pytest.mark.parametrize(
    "changed",
    [
        CONTRACT + "cluster: {secret: 0123456789abcdef}\n",
        CONTRACT + "gateway: {workers: 3}\n",
        CONTRACT + "logging: {level: debug}\nstate_dir: /x\n",
        CONTRACT + "cluster: {heartbeat_interval: 0.5, leave_after: 300}\n",
        CONTRACT.replace("model:\n", "models:\n  -\n")
        .replace("  path:", "    path:")
        .replace("  type:", "    type:"),
        "\n".join([*CONTRACT.splitlines()[7:], *CONTRACT.splitlines()[:7]]) + "\n",
        CONTRACT.replace("  - host: node1.example.com\n    port: 8000\n", "").replace(
            "model:", "  - host: node1.example.com\nmodel:"
        ),
    ],
)
def test_the_hash_covers_nothing_else(config_of: ConfigOf, changed: str) -> None:
    assert config_of(changed).agreed_hash() == config_of(CONTRACT).agreed_hash()


def test_the_hash_leaves_keys_out(config_of: ConfigOf) -> None:
    text = (
        "nodes: [{host: 127.0.0.1}]\n"
        "model:\n  name: x\n  engine: external\n  addresses: [{url: 'http://x', api_key: %s}]\n"
    )
    first, second = config_of(text % "a"), config_of(text % "b")
    assert first.agreed_hash() == second.agreed_hash()
    assert len(first.agreed_hash()) == 16
    assert int(first.agreed_hash(), 16) >= 0


def test_rules_hold_for_configurations_made_without_a_file() -> None:
    with pytest.raises(ValidationError, match="there is no model"):
        Config(nodes=({"host": "127.0.0.1"},))  # type: ignore[arg-type]


def test_secrets_are_not_shown_by_repr(config_of: ConfigOf) -> None:
    assert "hunter2" not in repr(config_of(MINIMAL + "cluster: {secret: hunter2hunter2hunter2}\n"))


def test_no_section_takes_unknown_keys_or_changes() -> None:
    paths = [path for known in all_settings() for path in (known, (*known, 0))]
    sections = {s.section for path in paths if (s := shape_of(path)) and s.section} | {Config}
    assert {section.__name__ for section in sections} >= {"Node", "Model", "Address", "Cluster", "Engines"}
    for section in sections:
        assert issubclass(section, Section)
        assert section.model_config["extra"] == "forbid"
        assert section.model_config["frozen"] is True
