"""The harness of `make chaos`, once, small: it must not rot between two full runs."""

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:  # the benchmarks are no installed package
    sys.path.append(ROOT)

from benchmarks.chaos.faults.engines import EngineKilled  # noqa: E402
from benchmarks.chaos.trials import Plan, run_fault  # noqa: E402


def test_a_killed_engine_is_seen_counted_and_replaced_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TESTED_CHAOS", str(tmp_path))  # whatever is started inherits it
    plan = Plan(trials=1, clients=6, network="loopback", spread=0.5)
    row = asyncio.run(run_fault(EngineKilled, plan, tmp_path, lambda _: None))
    (trial,) = row.trials
    assert row.problems == []
    assert trial.detection is not None
    assert trial.detection < 2
    assert trial.recovery is not None
    assert trial.recovery < 15
    assert row.requests >= 6
    assert row.wrong == 0
    everyone = psutil.process_iter(["environ"])
    assert not [p for p in everyone if (p.info["environ"] or {}).get("TESTED_CHAOS") == str(tmp_path)]
