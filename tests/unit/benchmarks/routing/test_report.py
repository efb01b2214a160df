from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from benchmarks.routing import __main__ as main
from benchmarks.routing import report
from benchmarks.routing.chart import svg
from benchmarks.routing.results import LATE, ORACLE, OURS, Row, Sample, judge
from rich.console import Console

SAMPLE = Sample(100, 0, 0.8, 0.03, 0.07, 0.2, 0.97, 1.7, 1.2, 10.0, late=0.002, busy=0.2, router=0.0001)
DOCUMENT: dict[str, Any] = {
    "date": "2026-01-02",
    "seeds": 3,
    "virtual": False,
    "busy_cores": 0.21,
    "late_ms": 2.0,
    "about": {"agents": "5 system prompts"},
    "endless": {"agents": 0.91},
    "machine": {
        "cpu": "A Fast One",
        "cores": 2,
        "memory_gb": 24,
        "system": "Debian",
        "kernel": "6.1",
        "python": "3.11.7",
    },
}


def rows() -> list[Row]:
    late = Row("smg cache_aware", "1.13", "agents", 1, [dataclasses.replace(SAMPLE, late=2 * LATE)])
    rated = Row(OURS, "0.1", "agents", 1, [SAMPLE], [dataclasses.replace(SAMPLE, rate=1.25)])
    lost = Row("lost", "", "agents", 1, problems=["pip could not install it"])
    return [Row(ORACLE, "", "agents", 1, [SAMPLE]), rated, late, lost]


def test_a_terminal_gets_everything() -> None:
    out = io.StringIO()
    report.show(Console(file=out, width=160), rows(), judge(rows()), DOCUMENT)
    text = out.getvalue()
    for expected in (
        "agents, 1 gateway",
        "375",
        "0.800",
        "97.0%",
        "pip could not install it",
        "0.910",
        "A Fast One",
    ):
        assert expected in text
    assert "1 of 1 runs left out" in text


def test_markdown_has_a_table_for_each_workload_and_dashes_for_what_does_not_count() -> None:
    text = report.markdown(rows(), judge(rows()), DOCUMENT)
    assert f"| **{OURS} 0.1** | 0.800 | 30 | 70 | 200 |" in text
    assert "| smg cache_aware 1.13 | - | - |" in text
    assert "| agents, 1 gateway: hit rate 0.800, at least 0.760 (95% of the oracle's) | pass |" in text


def test_the_picture_is_a_picture_with_everybody_who_was_measured() -> None:
    picture = svg(rows())
    ET.fromstring(picture)
    assert OURS in picture and ORACLE in picture
    assert "lost" not in picture


def test_results_of_an_earlier_run_can_be_shown_again_and_put_into_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- routing: begin -->\nold\n<!-- routing: end -->\nafter\n")
    monkeypatch.setattr(main, "ROOT", tmp_path)
    monkeypatch.setattr(main, "OUTPUT", tmp_path / "build")
    monkeypatch.setattr(main, "DOCUMENT", document)
    monkeypatch.setattr(main, "PICTURE", tmp_path / "images" / "routing.svg")
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(DOCUMENT | {"rows": [row.as_json() for row in rows()]}))
    assert main.main(["--show", str(saved), "--docs"]) == 0
    text = document.read_text()
    assert "old" not in text
    assert f"**{OURS} 0.1**" in text
    assert (tmp_path / "images" / "routing.svg").exists()
    assert json.loads((tmp_path / "build" / "results.json").read_text())["promises"]


def test_failed_requests_through_shoal_make_the_command_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "ROOT", tmp_path)
    monkeypatch.setattr(main, "OUTPUT", tmp_path / "build")
    failed = rows()
    failed[1].samples[0] = dataclasses.replace(SAMPLE, errors=1)
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(DOCUMENT | {"rows": [row.as_json() for row in failed]}))
    assert main.main(["--show", str(saved)]) == 1


def test_a_signal_ends_a_run_and_what_it_started() -> None:
    ended: list[bool] = []

    async def work() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        main._run(work())
    assert ended
