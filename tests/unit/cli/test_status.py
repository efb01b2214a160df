import ssl
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from shoal.cli.asked import node_url
from shoal.cli.control import verification
from shoal.cli.status import render


def document(**more: Any) -> dict[str, Any]:
    engine = {
        "id": "m-0", "model": "m", "kind": "vllm", "state": "waiting", "host": "127.0.0.1", "port": 1,
        "running": 2, "waiting": 3, "kv_usage": 0.25, "restarts": 4, "since": 7.2,
        "errors": ["ValueError: no such model"], "detail": "restarts in 4 s: it exited with code 1",
        "standby": False,
    }  # fmt: skip
    mine = {
        "name": "127.0.0.1:8000", "state": "alive", "age": 0.0, "is_self": True, "role": "serve",
        "version": "0.1.0", "config_hash": "x", "engines": [engine], "covers": None,
        "waiting": {"m": 40, "n": 2},
    }  # fmt: skip
    never = {
        "name": "127.0.0.1:8001", "state": "unknown", "age": None, "is_self": False, "role": None,
        "version": None, "config_hash": None, "engines": [], "covers": None,
    }  # fmt: skip
    events = [{"time": 0.0, "level": "warning", "text": f"event {i}"} for i in range(5)]
    return {
        "node": "127.0.0.1:8000", "cluster": "shoal", "isolated": False,
        "members": [mine, never], "external": [], "events": events,
    } | more  # fmt: skip


def shown(value: dict[str, Any], events: int = 2) -> str:
    out = StringIO()
    Console(file=out, width=200).print(render(value, events))
    return out.getvalue()


def test_members_engines_errors_and_the_last_events_are_shown():
    text = shown(document())
    for part in (
        "engines ready 0/1",
        "this node",
        "127.0.0.1:8000/m-0",
        "restarts in 4 s: it exited with code 1",
        "ValueError: no such model",
        "25%",
        "never",
        " 42 ",
    ):
        assert part in text
    assert "event 4" in text
    assert "event 2" not in text


def test_a_standby_is_shown_with_the_node_it_stands_in_for_and_its_spares_do_not_count():
    value = document()
    value["members"][0] |= {"role": "standby", "covers": "127.0.0.1:8001"}
    value["members"][0]["engines"][0] |= {"state": "ready", "standby": True}
    text = shown(value)
    assert "standby for 127.0.0.1:8001" in text
    assert "engines ready 0/0" in text
    (row,) = (line for line in text.splitlines() if "8000/m-0  " in line and "exited" in line)
    assert row.split()[1] == "standby"


def test_being_cut_off_is_said():
    assert "cut off" in shown(document(isolated=True))


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (None, "http://127.0.0.1:8000"),
        ("node1:8000", "http://node1:8000"),
        ("https://node1:8443", "https://node1:8443"),
    ],
)
def test_a_node_is_asked_as_it_was_named(given: str | None, asked: str):
    assert node_url(given) == asked


@pytest.mark.parametrize("url", ["https://127.0.0.1:8443", "https://localhost:1", "https://[::1]:8443"])
def test_the_certificate_of_this_machine_itself_is_not_checked(url: str):
    assert verification(url) is False


def test_the_certificate_of_other_machines_is_checked():
    context = verification("https://node1.example.com:8443")
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
