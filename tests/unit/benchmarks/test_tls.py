"""The benchmark of mutual TLS: its handshakes are real, and its table says what was added."""

import json
import os
from pathlib import Path

import httpx
import pytest
from benchmarks.gateway import handshake, tls
from benchmarks.gateway.handshake import Cost
from benchmarks.gateway.peers import Kind
from benchmarks.gateway.processes import Running
from benchmarks.gateway.results import CPU_REQUEST, Row
from benchmarks.gateway.run import answers, free_ports

from support.wait import wait_until


def test_handshakes_are_made_with_both_certificates_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "_TIMES", 9)
    whole, resumed = handshake.measure(tls.credentials(tmp_path))
    assert 0 < resumed.client < whole.client
    assert 0 < resumed.server < whole.server


def test_the_worker_alone_says_of_an_engine_that_is_away_that_it_is(tmp_path: Path) -> None:
    port, engine = free_ports(2)
    given = tls.credentials(tmp_path)
    running = Running("worker", tls.worker(port, [engine], given), [*os.sched_getaffinity(0)], tmp_path)
    try:
        with httpx.Client(timeout=5, trust_env=False, verify=False) as client:

            def said() -> str:
                try:
                    url = f"http://127.0.0.1:{port}/v1/chat/completions"
                    return client.post(url, json={"model": "bench", "messages": []}).text
                except httpx.HTTPError:
                    return ""

            wait_until(said, 20, "it answers")
            assert json.loads(said())["error"]["code"] == "engine_unreachable"
            assert not answers(client, port)
    finally:
        running.stop()


def test_the_table_shows_what_tls_adds() -> None:
    rows = []
    for name, cost in (
        ("nginx, plain HTTP", 20.0),
        ("nginx, mutual TLS", 26.0),
        ("shoal, plain HTTP", 30.0),
        ("shoal, mutual TLS", 39.5),
        ("shoal, plain HTTP, nothing kept", 50.0),
        ("shoal, mutual TLS, nothing kept", 300.0),
    ):
        row = Row(name, Kind.PART)
        row.add({CPU_REQUEST.key: cost})
        rows.append(row)
    machine = dict.fromkeys(("cpu", "cores", "memory_gb", "system", "kernel", "python", "placement"), "x")
    text = tls.markdown(
        {
            "rows": rows,
            "shakes": (Cost(650.0, 800.0), Cost(150.0, 350.0)),
            "nginx": "1.22.1",
            "date": "2026-11-25",
            "machine": machine,
            "repeats": 3,
            "slices": 2,
            "others": 0.0,
        }
    )
    assert "| shoal, **added** | +9.5 | - |" in text
    assert "| nginx, **added** | +6.0 |" in text
    assert "| one that resumes a session | 150 | 350 |" in text
    assert "kept: mutual TLS | +260.5 | - |" in text
