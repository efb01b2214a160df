"""Properties of any configuration: what is written is read back, and no change of a file ends in anything but
a configuration or an error with its place."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shoal.config import Config, ConfigError, load
from support.thorough import tries

DIRECTORY = tempfile.TemporaryDirectory(prefix="shoal-config-")
FILE = Path(DIRECTORY.name) / "cluster.yaml"
ENV = {"HOME": "/home/someone", "A": "8000", "B": "text", "EMPTY": ""}
SPECIAL = {"null", "true", "false"}
POLICIES = ["round_robin", "weighted_round_robin", "least_connections", "session", "prefix_affinity"]

words = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12).filter(
    lambda w: not w[0].isdigit()
)
lines = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="$"), min_size=1, max_size=30)
hosts = st.one_of(
    words, st.ip_addresses(v=4).filter(lambda a: not a.is_multicast and not a.is_unspecified).map(str)
)
weights = st.floats(min_value=0.001, max_value=1e6) | st.integers(1, 1000)
sizes = st.integers(1024 * 64, 1024**2 * 16) | st.sampled_from(["64KiB", "1MiB", "1.5MiB", "2MB"])


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


nodes = st.lists(
    st.fixed_dictionaries(
        {"host": hosts},
        optional={
            "port": st.integers(1, 19999),
            "weight": weights,
            "role": st.sampled_from(["serve", "standby", "gateway"]),
            "standby": st.none(),
            "bind": st.none() | hosts | st.just("0.0.0.0"),
            "gpus": st.none() | st.lists(st.integers(0, 1023), unique=True, max_size=8),
        },
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda node: (node["host"], node.get("port", 8000)),
).map(lambda found: [found[0] | {"role": "serve"}, *found[1:]])
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | lines
arguments = st.dictionaries(
    words.map(lambda w: f"x-{w}"),
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(words, scalars, max_size=3),
)
models = st.lists(
    st.fixed_dictionaries(
        {"path": st.tuples(words, lines).map("/".join), "name": lines},
        optional={
            "type": st.sampled_from(["small", "medium", "large", "xlarge", "auto"]),
            "engine": st.sampled_from(["vllm", "sim"]),
            "engines_per_node": st.none() | st.integers(1, 64),
            "share_gpus": st.booleans(),
            "policy": st.none() | st.sampled_from(POLICIES),
            "args": arguments | st.lists(words.map(lambda w: f"--x-{w}"), max_size=4),
            "env": st.dictionaries(words.map(str.upper), lines | st.integers(), max_size=3),
        },
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda model: model["name"],
)
configs = st.fixed_dictionaries(
    {"nodes": nodes, "models": models},
    optional={
        "communication": optional(protocol=st.just("tcp"), timeout=st.floats(2, 3600)),
        "cluster": optional(
            name=words,
            secret=st.text(alphabet="0123456789abcdef", min_size=16, max_size=64),
            heartbeat_interval=st.floats(0.5, 2.4),
            suspect_after=st.integers(2, 10),
            confirm_timeout=st.floats(0.01, 1),
        ),
        "gateway": optional(
            workers=st.just("auto") | st.integers(1, 256),
            max_body=sizes,
            max_header=sizes,
            keepalive=st.integers(0, 65536),
        ),
        "engines": optional(
            ports=st.just([20000, 30000]), probe_interval=st.floats(0.1, 9.9), log_max_size=sizes
        ),
        "recovery": optional(
            restart_delay=st.floats(0, 60),
            drain_timeout=st.integers(0, 100),
            resume=st.sampled_from(["exact", "text", "off"]),
            resume_buffer=sizes,
            stall_timeout=st.floats(10, 100),
            takeover_after=st.floats(5, 100),
            return_after=st.floats(30, 100),
        ),
        "routing": optional(policy=st.sampled_from(POLICIES)),
        "logging": optional(
            level=st.sampled_from(["debug", "info", "warning", "error"]), format=st.just("json")
        ),
        "state_dir": st.none() | words.map(lambda w: f"/var/{w}"),
    },
)


def dump(data: Any, indent: str = "") -> str:
    """Return `data` as YAML in block style. Scalars are written as in JSON, which YAML includes."""
    if isinstance(data, dict) and data:
        return "".join(f"\n{indent}{_key(key)}: {dump(value, indent + '  ')}" for key, value in data.items())
    if isinstance(data, list) and any(isinstance(item, dict | list) for item in data):
        return "".join(f"\n{indent}- {dump(item, indent + '  ')}" for item in data)
    return json.dumps(data, ensure_ascii=False)


def _key(key: str) -> str:
    return (
        key
        if key.isascii() and key.replace("_", "").isalpha() and key.lower() not in SPECIAL
        else json.dumps(key)
    )


def read(text: str) -> Config:
    FILE.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    loaded = load(FILE, ENV)
    loaded.settings()
    return loaded.config


@settings(deadline=None, max_examples=tries(50))
@given(configs)
def test_what_is_written_is_read(data: dict[str, Any]) -> None:
    config = read(dump(data))
    assert [n.name for n in config.nodes] == [f"{n['host']}:{n.get('port', 8000)}" for n in data["nodes"]]
    for node, written in zip(config.nodes, data["nodes"], strict=True):
        assert node.weight == written.get("weight", 1.0)
        assert list(node.gpus or ()) == (written.get("gpus") or [])
    for model, written in zip(config.models, data["models"], strict=True):
        assert (model.path, model.name) == (written["path"], written["name"])
        args = written.get("args", {})
        assert model.args == (tuple(args) if isinstance(args, list) else args)
        assert model.env == {key: str(value) for key, value in written.get("env", {}).items()}


@settings(deadline=None, max_examples=tries(50))
@given(configs)
def test_a_configuration_written_out_in_full_reads_back_the_same(data: dict[str, Any]) -> None:
    config = read(dump(data))
    full = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    again = read(dump(full))
    assert again == config
    assert again.agreed_hash() == config.agreed_hash()


@settings(deadline=None, max_examples=tries(30))
@given(configs, st.randoms(use_true_random=False))
def test_the_order_of_keys_nodes_and_models_does_not_matter_to_the_hash(
    data: dict[str, Any], random: Any
) -> None:
    shuffled = dict(random.sample(list(data.items()), len(data)))
    for key in ("nodes", "models"):
        shuffled[key] = random.sample(data[key], len(data[key]))
    assert read(dump(shuffled)).agreed_hash() == read(dump(data)).agreed_hash()


def reads_or_says_why(text: str) -> None:
    """Load `text`: anything but a configuration or a `ConfigError` with places fails the test."""
    try:
        read(text)
    except ConfigError as error:
        assert error.problems
        assert len(str(error).splitlines()) == len(error.problems)
        for problem in error.problems:
            assert problem.line is not None
            assert problem.line >= 1
            assert problem.column is not None
            assert problem.column >= 1


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | scalars | st.sampled_from(["${A}", "${B}", "${EMPTY}", "${GONE}", "${", ".inf", "", "::1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words | st.sampled_from(["host", "url"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=tries(150))
@given(configs, st.data())
def test_any_value_in_any_place_is_read_or_explained(data: dict[str, Any], draw: st.DataObject) -> None:
    place: Any = data
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        assume(keys)
        key = draw.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw.draw(st.booleans()):
            place = place[key]
            continue
        break
    match draw.draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            place[key] = draw.draw(anything)
        case "remove":
            del place[key]
        case _ if isinstance(place, dict):
            place[draw.draw(words)] = draw.draw(anything)
        case _:
            place.append(draw.draw(anything))
    reads_or_says_why(dump(data))


PIECES = st.sampled_from(
    [
        *"[]{}:-,'\"|>&*!%@`#?\t\n\r\\$",
        "\n  ",
        ": ",
        "- ",
        "<<: *a\n",
        "&a ",
        "*a ",
        "${A}",
        "${A:-",
        "$${",
        "---\n",
        "!!int ",
        "null",
        "~",
        "1e999",
        "0x",
        ".nan",
        "\x00",
        "\x85",
        "\u2028",
        "\ufeff",
        "\U0001f600",
        '"\\ud800"',
        "9" * 5000,
    ]
)


@settings(deadline=None, max_examples=tries(150))
@given(
    configs,
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), PIECES | st.text(max_size=3)), min_size=1, max_size=4
    ),
)
def test_any_change_of_the_text_is_read_or_explained(
    data: dict[str, Any], changes: list[tuple[float, int, str]]
) -> None:
    text = dump(data)
    for position, removed, added in changes:
        at = int(position * len(text))
        text = text[:at] + added + text[at + removed :]
    reads_or_says_why(text)


@settings(deadline=None, max_examples=tries(150))
@given(st.text())
def test_any_text_is_explained(text: str) -> None:
    reads_or_says_why(text)


@settings(deadline=None, max_examples=tries(100))
@given(st.binary(max_size=200))
def test_any_bytes_are_explained(content: bytes) -> None:
    FILE.write_bytes(content)
    try:
        load(FILE, ENV)
    except ConfigError as error:
        assert all(problem.line is not None for problem in error.problems)
