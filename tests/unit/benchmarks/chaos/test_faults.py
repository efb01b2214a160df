import os
import socket
from typing import Any

import pytest
from benchmarks.chaos.__main__ import DOCUMENT, chosen
from benchmarks.chaos.cluster import ChaosError, full_strength
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.faults.base import why_not
from benchmarks.chaos.faults.links import Partition
from benchmarks.chaos.faults.nodes import clients_of
from benchmarks.chaos.network import Loopback


def test_faults_are_named_by_their_beginnings() -> None:
    assert chosen(None) == list(FAULTS)
    assert [f.name for f in chosen("engine k, part")] == ["engine killed", "partition 2/1"]
    with pytest.raises(ChaosError, match=r"no fault 'flood'; there are 'engine killed'"):
        chosen("flood")


def test_every_fault_is_defined_in_the_documentation() -> None:
    text = DOCUMENT.read_text()
    for fault in FAULTS:
        assert f"- **{fault.name}**: {fault.meaning}\n" in text, "run `make chaos DOCS=1`"


def test_names_are_unique_and_load_never_enters_through_nobody() -> None:
    assert len({f.name for f in FAULTS}) == len(FAULTS)
    assert all(f.entries for f in FAULTS)


def test_a_fault_of_links_is_not_tried_on_loopback() -> None:
    assert "network namespaces" in why_not(Partition, Loopback(3))


def status(**changes: Any) -> dict[str, Any]:
    engine = {"state": changes.get("engine", "ready")}
    members = [{"state": "alive", "engines": [{"state": "ready"}]} for _ in range(2)]
    members.append({"state": changes.get("member", "alive"), "engines": [engine]})
    worker = {"pid": changes.get("pid", 7), "listening": changes.get("listening", True)}
    return {"members": members, "workers": [worker], "isolated": changes.get("isolated", False)}


def test_full_strength_is_everything_alive_ready_and_listening() -> None:
    assert full_strength(status(), 3)
    assert not full_strength(status(), 4)
    assert not full_strength({}, 3)
    for change in (
        {"engine": "starting"},
        {"member": "suspect"},
        {"pid": None},
        {"listening": False},
        {"isolated": True},
    ):
        assert not full_strength(status(**change), 3), change


def test_the_clients_of_a_process_are_told_by_their_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            with accepted:
                assert clients_of(os.getpid(), port) == {client.getsockname()[1]}
                assert clients_of(os.getpid(), 1) == set()
