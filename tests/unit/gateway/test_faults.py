"""Who is tried last, and what the node process hears."""

from __future__ import annotations

from shoal.gateway.faults import AVOID_FIRST, AVOID_MAX, Faults
from shoal.gateway.messages import EngineFault


def test_an_engine_that_refuses_is_avoided_for_doubling_times():
    faults = Faults(lambda _: None)
    now, spans = 100.0, []
    for _ in range(8):
        faults.unreachable("e", "refused", now)
        start = now
        while faults.avoids("e", now):
            now += 0.5
        spans.append(now - start)
    assert spans == [1, 2, 4, 8, 16, 16, 16, 16]
    assert (AVOID_FIRST, AVOID_MAX) == (1, 16)


def test_many_requests_that_fail_together_count_once():
    faults = Faults(lambda _: None)
    for _ in range(100):
        faults.unreachable("e", "refused", 1.0)
    assert not faults.avoids("e", 2.0)


def test_a_success_ends_it():
    faults = Faults(lambda _: None)
    faults.unreachable("e", "refused", 1.0)
    faults.reachable("e")
    assert not faults.avoids("e", 1.0)
    faults.unreachable("e", "refused", 2.0)
    assert not faults.avoids("e", 3.0), "it starts small again"


def test_other_faults_are_reported_but_not_avoided():
    reports: list[EngineFault] = []
    faults = Faults(reports.append)
    faults.fault("e", "reset", 1.0)
    assert not faults.avoids("e", 1.0)
    assert reports == [EngineFault("e", "reset", 1)]


def test_at_most_one_report_per_engine_and_second_and_none_is_lost():
    reports: list[EngineFault] = []
    faults = Faults(reports.append)
    now = 0.0
    while now < 3.0:
        faults.fault("a", "reset", now)
        faults.flush(now)
        now += 1 / 64
    faults.fault("b", "refused", now)
    faults.flush(now + 10)
    assert len([r for r in reports if r.engine == "a"]) <= 5
    assert sum(r.count for r in reports if r.engine == "a") == 3 * 64
    assert [r for r in reports if r.engine == "b"] == [EngineFault("b", "refused", 1)]


def test_old_trouble_is_forgotten():
    faults = Faults(lambda _: None)
    faults.unreachable("gone", "refused", 1.0)
    faults.flush(2.5)
    assert faults.avoided, "still remembered, so that the next time doubles"
    faults.flush(60.0)
    assert faults.avoided == {}
