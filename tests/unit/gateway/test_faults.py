"""Who is tried last, and what the node process hears."""

from __future__ import annotations

from shoal.gateway.faults import AVOID_FIRST, AVOID_MAX, FAULTS, Faults
from shoal.gateway.messages import EngineFault
from shoal.routing.table import EngineTarget


def targets(count: int, instance: str = "") -> list[EngineTarget]:
    return [
        EngineTarget(id=f"e{i}", slot=i, host="h", port=1, instance=instance if i == 0 else "")
        for i in range(count)
    ]


FOUR = targets(4)


def avoids(faults: Faults, engine: str, now: float) -> bool:
    return engine not in faults.best(FOUR, now)


def ejecting(faults: Faults, engine: str, now: float) -> None:
    for _ in range(int(FAULTS)):
        faults.fault(engine, "reset", now)


def test_an_engine_that_refuses_is_avoided_for_doubling_times():
    faults = Faults(lambda _: None)
    now, spans = 100.0, []
    for _ in range(8):
        faults.unreachable("e0", "refused", now)
        start = now
        while avoids(faults, "e0", now):
            now += 0.5
        spans.append(now - start)
    assert spans == [1, 2, 4, 8, 16, 16, 16, 16]
    assert (AVOID_FIRST, AVOID_MAX) == (1, 16)


def test_many_requests_that_fail_together_count_once():
    faults = Faults(lambda _: None)
    for _ in range(100):
        faults.unreachable("e0", "refused", 1.0)
    assert not avoids(faults, "e0", 2.0)


def test_a_success_ends_it():
    faults = Faults(lambda _: None)
    faults.unreachable("e0", "refused", 1.0)
    faults.reachable("e0")
    assert faults.avoided == {}
    faults.unreachable("e0", "refused", 2.0)
    assert not avoids(faults, "e0", 3.0), "it starts small again"


def test_three_faults_in_a_row_eject_an_engine_and_fewer_do_not():
    faults = Faults(lambda _: None)
    for _ in range(2):
        faults.fault("e0", "reset", 1.0)
    assert not avoids(faults, "e0", 1.0)
    faults.fault("e0", "reset", 1.0)
    assert avoids(faults, "e0", 1.5)
    assert not avoids(faults, "e0", 2.0)


def test_an_engine_is_ejected_when_more_than_half_of_its_requests_break_and_kept_when_fewer_do():
    faults = Faults(lambda _: None)
    for turn in range(100):  # each one gets a response head; every third breaks off
        faults.reachable("e0")
        if turn % 3 == 0:
            faults.fault("e0", "cut", 1.0)
    assert not avoids(faults, "e0", 1.0)
    for _ in range(6):
        faults.reachable("e0")
        faults.fault("e0", "cut", 1.0)
    assert avoids(faults, "e0", 1.0)


def test_it_comes_back_with_one_request_and_the_others_follow_when_that_one_succeeds():
    faults = Faults(lambda _: None)
    ejecting(faults, "e0", 1.0)
    faults.picked("e0", 1.5)  # there was nobody else
    assert avoids(faults, "e0", 1.5)
    assert not avoids(faults, "e0", 2.0)
    faults.picked("e0", 2.0)
    assert avoids(faults, "e0", 2.1), "one is enough"
    faults.reachable("e0")
    assert not avoids(faults, "e0", 2.2)


def test_it_stays_out_for_twice_as_long_when_that_one_fails():
    faults = Faults(lambda _: None)
    ejecting(faults, "e0", 1.0)
    faults.picked("e0", 2.0)
    faults.fault("e0", "reset", 2.1)
    assert avoids(faults, "e0", 4.0)
    assert not avoids(faults, "e0", 4.1)


def test_a_trial_of_which_nothing_is_heard_is_followed_by_another():
    faults = Faults(lambda _: None)
    faults.unreachable("e0", "refused", 1.0)
    faults.picked("e0", 2.0)
    assert avoids(faults, "e0", 2.9)
    assert not avoids(faults, "e0", 3.0)


def test_faults_soon_after_a_return_eject_for_longer():
    faults = Faults(lambda _: None)
    ejecting(faults, "e0", 1.0)
    faults.picked("e0", 2.0)
    faults.reachable("e0")
    for _ in range(2):
        faults.fault("e0", "cut", 2.5)
    assert avoids(faults, "e0", 4.4)
    assert not avoids(faults, "e0", 4.5)


def test_faults_never_take_out_more_than_half_of_the_engines_but_refusals_do():
    faults = Faults(lambda _: None)
    for number in range(4):
        ejecting(faults, f"e{number}", 1.0 + number / 10)
    assert faults.best(FOUR, 1.5) == ["e0", "e1"], "the first come back first"
    assert faults.best(targets(1), 1.5) == ["e0"]
    faults.unreachable("e0", "refused", 1.5)
    assert faults.best(FOUR, 1.6) == ["e1", "e2"]
    for target in FOUR:
        faults.unreachable(target.id, "refused", 1.6)
    assert faults.best(FOUR, 1.7) == []


def test_a_new_start_of_an_engine_forgets_its_faults():
    instance = "first"
    faults = Faults(lambda _: None, lambda _: instance)
    faults.unreachable("e0", "refused", 1.0)
    assert "e0" not in faults.best(targets(4, "first"), 1.5)
    assert "e0" in faults.best(targets(4, "second"), 1.5)
    instance = "second"
    faults.unreachable("e0", "refused", 1.6)
    assert "e0" in faults.best(targets(4, "second"), 2.6), "its time did not double"


def test_each_ejection_is_counted_and_told_with_its_time():
    reports: list[EngineFault] = []
    count = 0

    def ejected() -> None:
        nonlocal count
        count += 1

    faults = Faults(reports.append, ejected=ejected)
    for _ in range(5):
        faults.unreachable("e0", "refused", 1.0)
    faults.flush(2.0)
    assert count == 1
    assert reports == [EngineFault("e0", "refused", 1, 1.0), EngineFault("e0", "refused", 4, 1.0)]


def test_a_single_fault_is_reported_only():
    reports: list[EngineFault] = []
    faults = Faults(reports.append)
    faults.fault("e0", "reset", 1.0)
    assert not avoids(faults, "e0", 1.0)
    assert reports == [EngineFault("e0", "reset", 1)]


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
    faults.fault("e0", "reset", 1.0)
    faults.flush(2.5)
    assert faults.avoided.keys() == {"gone", "e0"}, "still remembered, so that the next time doubles"
    faults.flush(60.0)
    assert faults.avoided == {}
