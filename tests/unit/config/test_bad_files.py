"""Three hundred wrong configurations: every one ends in a clear error that says where and what."""

from __future__ import annotations

import copy
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_origin

import pytest
from ruamel.yaml import YAML

from shoal.config import ConfigError, load
from shoal.config.errors import SettingPath
from shoal.config.shape import all_settings, fields_of, shape_of

JARGON = re.compile(
    r"pydantic|Traceback|type=|input_value|Input should|ValidationError|errors\.pydantic|<class|\bNone\b"
)
BASE: dict[str, Any] = {"nodes": [{"host": "127.0.0.1"}], "model": {"path": "org/tiny"}}
EXTERNAL: dict[str, Any] = {
    "nodes": [{"host": "127.0.0.1"}],
    "model": {"name": "x", "engine": "external", "addresses": [{"url": "http://10.0.0.1:8000"}]},
}


class Bad(NamedTuple):
    """A wrong file.

    Attributes:
        name: of the test.
        text: the file.
        names: what the error must name: the key or the value that is wrong.
    """

    name: str
    text: str
    names: str


def dump(data: Any) -> str:
    stream = io.StringIO()
    YAML().dump(data, stream)
    return stream.getvalue()


def with_value(path: SettingPath, value: Any) -> str:
    data = copy.deepcopy(EXTERNAL if "addresses" in path else BASE)
    inner: Any = data
    for step, following in itertools.pairwise(path):
        if isinstance(inner, dict) and step not in inner:
            inner[step] = [{}] if isinstance(following, int) else {}
        inner = inner[step]
    inner[path[-1]] = value
    return dump(data)


def wrong_values() -> Iterator[Bad]:
    """Every setting with values of every kind that it cannot have."""
    for path in all_settings():
        shape = shape_of(path)
        if shape is None or path[0] == "models":
            continue
        kind = shape.annotation
        wrong: list[Any]
        if shape.section is not None or get_origin(kind) is dict:
            wrong = ["some text", 5, ["x"]]
        elif get_origin(kind) is tuple:
            wrong = ["some text", 5, {"a": 1}, [{"a": [1]}]]
        elif get_origin(kind) is Literal:
            wrong = ["nonsense", 5, True, ["x"]]
        elif kind is bool:
            wrong = ["maybe", 5, [True]]
        elif kind in (int, float):
            wrong = ["many", -1, True, [1], {"a": 1}, 10**12]
        else:
            wrong = [5, True, ["x"], {"a": 1}]
        if path[-1] in ("args", "env"):
            wrong = wrong[:2]
        if path[-1] in ("workers", "max_in_flight"):
            wrong = wrong[1:]
        for value in wrong:
            yield Bad(f"{'.'.join(map(str, path))}={value}", with_value(path, value), str(path[-1]))


def unknown_keys() -> Iterator[Bad]:
    """Every section with keys that nearly are one of its own, and with one that is nothing like them."""
    sections: dict[SettingPath, list[str]] = {}
    for known in all_settings():
        for path in ((), known, (*known, 0)):
            shape = shape_of(path)
            if shape is not None and shape.section is not None and "models" not in path:
                sections[path] = list(fields_of(shape.section))
    for path, keys in sections.items():
        for key in (keys[0][:-1] + "xx", keys[-1].upper(), "quite_another"):
            yield Bad(f"unknown {key} in {path}", with_value((*path, key), 1), key)


def reserved_arguments() -> Iterator[Bad]:
    names = (
        "host port uds model served-model-name api-key ssl-keyfile ssl-certfile ssl-ca-certs root-path config"
    )
    groups = "device-ids nnodes node-rank master-addr master-port headless data-parallel-address grpc"
    for name in f"{names} {groups}".split():
        yield Bad(f"args {name}", with_value(("model", "args"), {name.replace("-", "_"): "x"}), name)
        yield Bad(f"args list {name}", with_value(("model", "args"), [f"--{name}", "x"]), name)


def bad_hosts() -> Iterator[Bad]:
    hosts = [
        "http://a",
        "a:80",
        "[::1]",
        "0.0.0.0",
        "::",
        "10.0.0",
        "1.2.3.4.5",
        "256.0.0.1",
        "a b",
        "-a",
        "a..b",
    ]
    for host in [*hosts, "a/b", "ä", "a" * 64, "224.0.0.1", "*", " a"]:
        yield Bad(f"host {host}", with_value(("nodes", 0, "host"), host), "nodes[0].host")


def broken_rules() -> Iterator[Bad]:
    two = "nodes: [{host: 127.0.0.1}, {host: 127.0.0.1, port: 8001, role: gateway}]\n"
    one, model = "nodes: [{host: 127.0.0.1}]\n", "model: {path: a/b}\n"
    cases = [
        ("nodes: [{host: a}, {host: a}]\n" + model, "a:8000"),
        ("nodes: [{host: a}, {host: A, port: 8000}]\n" + model, "A:8000"),
        (one, "`model`"),
        (model, "`nodes`"),
        ("nodes:\n" + model, "`nodes` has no value"),
        (one + model + "models: [{path: a/c}]\n", "`models`"),
        (one + "models: [{path: a/b}, {path: c/b}]\n", '"b"'),
        (one + "model: {type: small}\n", "`path`"),
        (one + "model: {engine: external, name: x}\n", "`addresses`"),
        (one + "model: {path: a/b, addresses: [{url: 'http://x'}]}\n", "addresses"),
        (one + "model: {engine: external, addresses: [{url: 'http://x'}]}\n", "`name`"),
        (two + "model: {path: a/b, nodes: ['127.0.0.1:8001']}\n", "127.0.0.1:8001"),
        (two + "model: {path: a/b, nodes: ['127.0.0.1:9000']}\n", "127.0.0.1:9000"),
        (two + "model: {path: a/b, nodes: []}\n", "model.nodes"),
        (two + "model: {path: a/b, nodes: ['127.0.0.1:8000', '127.0.0.1:8000']}\n", "127.0.0.1:8000"),
        ("nodes: [{host: ::1, role: gateway}]\n" + model, "role"),
        (one + model + "engines: {ports: [3000, 2000]}\n", "engines.ports"),
        (one + model + "engines: {ports: [3000]}\n", "engines.ports"),
        (one + model + "engines: {ports: [80, 90]}\n", "engines.ports[0]"),
        (one + model + "engines: {ports: [7000, 9000]}\n", "8000"),
        (one + model + "cluster: {confirm_timeout: 10}\n", "cluster.confirm_timeout"),
        (one + model + "cluster: {leave_after: 1}\n", "cluster.leave_after"),
        (one + model + "gateway: {connect_timeout: 31}\n", "gateway.connect_timeout"),
        (one + model + "engines: {start_timeout: 3}\n", "engines.probe_timeout"),
        (one + model + "recovery: {restart_delay: 90}\n", "recovery.restart_delay"),
        (one + model + "recovery: {healthy_after: 0.5}\n", "recovery.healthy_after"),
        (one + model + "communication: {protocol: quic}\n", "udp"),
        (one + model + "communication: {protocol: kafka}\n", "kafka"),
        (one + model + "communication: {protocol: rabbitmq}\n", "communication.broker"),
        (one + model + "cluster: {secret: tooshort}\n", "cluster.secret"),
        (one + "model: {path: a/b, env: {CUDA_VISIBLE_DEVICES: '0'}}\n", "CUDA_VISIBLE_DEVICES"),
        (one + "model: {path: a/b, env: {9A: '0'}}\n", "9A"),
        (one + "model: {path: a/b, args: [--a 5]}\n", "--a 5"),
        (one + "model: {path: a/b, args: {a: }}\n", "model.args.a"),
        ("nodes: [{host: ::1, gpus: [0, 0]}]\n" + model, "nodes[0].gpus"),
        ("nodes: [{host: ::1, gpus: [0]}]\nmodel: {path: a/b, gpus_per_engine: 2}\n", "gpus_per_engine"),
    ]
    for i, (text, names) in enumerate(cases):
        yield Bad(f"rule {i}", text, names)


def broken_yaml() -> Iterator[Bad]:
    rest = "model: {path: a/b}\n"
    cases = [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("---\n", "empty"),
        ("just text\n", "just text"),
        ("- a\n- b\n", "mapping"),
        ("42\n", "42"),
        ("nodes:\n\t- host: a\n" + rest, "tab"),
        ("nodes: [{host: a}\n" + rest, "closing bracket"),
        ("nodes: [{host: 'a}]\n" + rest, "quote"),
        ("nodes: {host: a: b}\n" + rest, "host: a: b"),
        ("nodes: - host: a\n" + rest, "list entry"),
        ("nodes:\n  - host: a\n   port: 1\n" + rest, "port: 1"),
        ("nodes: @a\n" + rest, "@"),
        ("nodes: %a\n" + rest, "%"),
        ("nodes: `a`\n" + rest, "backquote"),
        ("nodes: *gone\n" + rest, "alias"),
        ("nodes: &a [*a]\n" + rest, "alias"),
        ("nodes: !!python/object:os.system [a]\n" + rest, "os.system"),
        ("nodes: !mine [a]\n" + rest, "!mine"),
        (rest + "---\n" + rest, "document"),
        (rest + rest + "nodes: [{host: ::1}]\n", "`model` is given twice"),
        ("nodes: [{host: ::1, host: ::1}]\n" + rest, "`nodes[0].host` is given twice"),
        ("nodes: [{host: ::1}]\n1: x\n" + rest, "the key 1"),
        ("nodes: [{host: ::1}]\n? [a]\n: x\n" + rest, "a key"),
        ("nodes: [{host: ::1}]\nnull: x\n" + rest, "null"),
        ("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 9)), "aliases"),
        ("[" * 500, "nested"),
        ("nodes: [{host: ${X}}]\n" + rest, "${NAME}"),
        ('nodes: [{host: "\\ud800"}]\n' + rest, "U+D800"),
        ('nodes: [{host: "a\\0"}]\n' + rest, "U+0000"),
        ("nodes: [{host: a\x07}]\n" + rest, "U+0007"),
        (f"nodes: [{{host: ::1, port: {'9' * 5000}}}]\n" + rest, "nodes[0].port"),
        ("nodes: [{host: ::1}]\n" + rest + "<<: 5\n", "<<"),
    ]
    for i, (text, names) in enumerate(cases):
        yield Bad(f"yaml {i}", text, names)


def bad_variables() -> Iterator[Bad]:
    for i, text in enumerate(
        ["${GONE}", "a${GONE}b", "${GO NE}", "${}", "${", "${1}", "${A-b}", "${A:=b}", "${A:-${B}}"]
    ):
        named = "GONE" if "GONE" in text else "variable reference"
        yield Bad(f"variable {i}", f"nodes: [{{host: '{text}'}}]\nmodel: {{path: a/b}}\n", named)
        yield Bad(
            f"variable in env {i}",
            f"nodes: [{{host: ::1}}]\nmodel: {{path: a/b, env: {{X: '{text}'}}}}\n",
            named,
        )
    for value in ("abc", "0", "70000", "1.5", "true", "9" * 5000):
        text = f"nodes: [{{host: ::1, port: '${{X:-{value}}}'}}]\nmodel: {{path: a/b}}\n"
        yield Bad(f"variable of port {value[:9]}", text, "environment variable X")


BAD = [
    *wrong_values(),
    *unknown_keys(),
    *reserved_arguments(),
    *bad_hosts(),
    *broken_rules(),
    *broken_yaml(),
    *bad_variables(),
]


def test_there_are_three_hundred_different_ones() -> None:
    assert len({bad.text for bad in BAD}) >= 300


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name[:60])
def test_a_wrong_file_is_a_clear_error(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(bad.text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {"HOME": "/home/someone"})
    message = str(caught.value)
    lines = bad.text.split("\n")
    assert bad.names in message
    assert not JARGON.search(message)
    for problem, told in zip(caught.value.problems, message.splitlines(), strict=True):
        assert problem.line is not None
        assert problem.column is not None
        assert told == f"{path}:{problem.line}:{problem.column}: {problem.message}"
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert 10 < len(problem.message) < 500
    assert list(caught.value.problems) == sorted(caught.value.problems, key=lambda p: (p.line, p.column))


@pytest.mark.parametrize("bad", [*wrong_values(), *unknown_keys()], ids=lambda bad: bad.name[:60])
def test_the_line_told_is_the_line_of_the_key(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(bad.text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {"HOME": "/home/someone"})
    lines = bad.text.split("\n")
    # The value of a list or mapping begins in the line below its key.
    around = {line for p in caught.value.problems if p.line for line in (p.line - 1, max(p.line - 2, 0))}
    assert any(bad.names in lines[i] for i in around)
