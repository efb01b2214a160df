from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.view import EngineState
from shoal.node import reconcile
from shoal.node.reconcile import Actual, Local, Timers, Wanted, plan, restart_delay

TIMERS = Timers()
NOW = 1000.0
WANTED = {"m-0": Wanted(id="m-0", fingerprint="f1")}


def local(*engines: Actual, leaving: bool = False) -> Local:
    return Local(now=NOW, engines={e.id: e for e in engines}, leaving=leaving)


def engine(state: EngineState = EngineState.READY, since: float = NOW - 10, **more: Any) -> Actual:
    facts: dict[str, Any] = {
        "fingerprint": "f1",
        "running": True,
        "ready": True,
        "answered": NOW,
        "looked": NOW,
        "progressed": NOW,
    } | more
    return Actual(id="m-0", state=state, since=since, **facts)


def decide(wanted: Mapping[str, Wanted], here: Local) -> tuple[str, str] | None:
    action = plan(wanted, here, TIMERS)
    return None if action is None else (type(action).__name__, action.reason)


def test_a_wanted_engine_that_is_not_there_is_started():
    assert decide(WANTED, local()) == ("Start", "engine m-0 starts")


def test_nothing_to_do_when_actual_and_desired_agree():
    assert decide(WANTED, local(engine())) is None


def test_any_exit_schedules_a_restart_with_a_sentence_that_says_why():
    gone = engine(running=False, exit="exited with code 0")
    action = plan(WANTED, local(gone), TIMERS)
    assert isinstance(action, reconcile.Retry)
    assert action.failures == 1
    assert 0.8 <= action.at - NOW <= 1.0
    assert action.reason == "engine m-0 restarts in 1 s: it exited with code 0"


def test_the_third_failure_waits_longer_and_says_so():
    gone = engine(running=False, exit="was killed by SIGKILL", failures=2)
    action = plan(WANTED, local(gone), TIMERS)
    assert isinstance(action, reconcile.Retry)
    assert 3.2 <= action.at - NOW <= 4.0
    assert "failure 3 in a row" in action.reason


def test_an_engine_is_not_started_before_its_back_off_is_over():
    waiting = engine(EngineState.WAITING, running=False, failures=1, next_start=NOW + 1)
    assert decide(WANTED, local(waiting)) is None
    due = msgspec.structs.replace(waiting, next_start=NOW)
    assert decide(WANTED, local(due)) == ("Start", "engine m-0 starts again (failure count 1)")


def test_a_crash_loop_of_one_engine_does_not_hold_back_another():
    looping = engine(EngineState.WAITING, running=False, failures=9, next_start=NOW + 60)
    wanted = WANTED | {"n-0": Wanted(id="n-0", fingerprint="f2")}
    assert decide(wanted, local(looping)) == ("Start", "engine n-0 starts")


def test_an_answering_engine_becomes_ready():
    starting = engine(EngineState.STARTING, since=NOW - 42)
    assert decide(WANTED, local(starting)) == ("MarkReady", "engine m-0 is ready after 42 s")


def test_an_engine_that_never_gets_ready_is_killed():
    slow = engine(EngineState.STARTING, since=NOW - 900, ready=False, answered=None)
    assert decide(WANTED, local(slow)) == (
        "Kill",
        "engine m-0 is killed: it was not ready within 900 s (engines.start_timeout)",
    )


def test_a_silent_engine_gets_no_more_requests_until_it_answers_again():
    silent = engine(since=NOW - 100, answered=NOW - 15)
    kind, reason = decide(WANTED, local(silent)) or ("", "")
    assert (kind, "did not answer for 15 s" in reason) == ("MarkUnhealthy", True)
    still = engine(EngineState.UNHEALTHY, since=NOW - 5, answered=NOW - 20)
    assert decide(WANTED, local(still)) is None
    back = engine(EngineState.UNHEALTHY, since=NOW - 5, answered=NOW - 1)
    assert decide(WANTED, local(back)) == ("MarkReady", "engine m-0 answers again")


def test_silence_while_nobody_asked_is_not_held_against_an_engine():
    unseen = engine(since=NOW - 100, answered=NOW - 20, looked=NOW - 20)
    assert decide(WANTED, local(unseen)) is None


def stalled(seconds: float = 10.0, **more: Any) -> Actual:
    return engine(since=NOW - 500, progressed=NOW - seconds, requests=3, **more)


def test_an_engine_with_requests_that_gets_nothing_done_is_killed():
    assert decide(WANTED, local(stalled())) == (
        "Kill",
        "engine m-0 is killed: it had 3 requests and got nothing done for 10 s (recovery.stall_timeout)",
    )
    assert decide(WANTED, local(stalled(9.9))) is None


def test_an_engine_with_requests_that_does_not_answer_is_killed_with_other_words():
    kind, reason = decide(WANTED, local(stalled(answered=NOW - 10))) or ("", "")
    assert (kind, "it had 3 requests and did not answer for 10 s" in reason) == ("Kill", True)


def test_an_engine_without_requests_does_not_hang():
    assert decide(WANTED, local(msgspec.structs.replace(stalled(100), requests=0))) is None


def test_a_stall_ends_where_it_was_last_looked_at():
    assert decide(WANTED, local(stalled(60, looked=NOW - 55, answered=NOW - 55))) is None


def test_a_long_prefill_is_no_hang_as_long_as_it_computes_but_not_for_ever():
    assert decide(WANTED, local(stalled(59, worked=NOW - 1))) is None
    assert (decide(WANTED, local(stalled(59, worked=NOW - 10))) or ("",))[0] == "Kill"
    kind, reason = decide(WANTED, local(stalled(60, worked=NOW))) or ("", "")
    assert (kind, "got nothing done for 60 s" in reason) == ("Kill", True)


def test_an_unhealthy_engine_that_still_does_not_answer_is_killed():
    lost = engine(EngineState.UNHEALTHY, since=NOW - 10, answered=NOW - 25, progressed=NOW - 25)
    kill = plan(WANTED, local(lost), TIMERS)
    assert isinstance(kill, reconcile.Kill)
    assert (kill.hung, kill.reason) == (True, "engine m-0 is killed: it did not answer for 25 s")
    assert decide(WANTED, local(msgspec.structs.replace(lost, since=NOW - 9))) is None
    assert decide(WANTED, local(msgspec.structs.replace(lost, worked=NOW - 1))) is None


def test_what_is_being_ended_is_not_ended_twice_nor_used_again():
    for ending in (
        stalled(ending=True),
        engine(EngineState.UNHEALTHY, since=NOW - 50, ending=True),
        engine(EngineState.STARTING, since=NOW - 900, ready=False, answered=None, ending=True),
    ):
        assert decide(WANTED, local(ending)) is None


def test_healthy_minutes_forgive_failures():
    recovered = engine(since=NOW - 120, failures=3)
    assert (decide(WANTED, local(recovered)) or ("",))[0] == "Forgive"
    assert decide(WANTED, local(engine(since=NOW - 119, failures=3))) is None


def test_an_engine_nobody_wants_is_stopped_then_forgotten():
    assert decide({}, local(engine()))[0] == "Stop"  # type: ignore[index]
    assert decide({}, local(engine(EngineState.DRAINING, ending=True))) is None
    assert decide({}, local(engine(EngineState.STOPPING, ending=True))) is None
    assert decide({}, local(engine(EngineState.STOPPED, running=False)))[0] == "Forget"  # type: ignore[index]


def test_a_changed_engine_is_replaced_but_only_one_at_a_time():
    wanted = {i: Wanted(id=i, fingerprint="f2") for i in ("m-0", "m-1")}
    old = [engine(), msgspec.structs.replace(engine(), id="m-1")]
    assert decide(wanted, local(*old)) == ("Stop", "engine m-0 is replaced: its configuration changed")
    new = engine(EngineState.STARTING, since=NOW - 1, fingerprint="f2", ready=False, answered=None)
    assert decide(wanted, local(new, old[1])) is None
    between = engine(EngineState.STOPPED, running=False, away=True)
    assert decide(wanted, local(between, old[1])) == ("Start", "engine m-0 starts")
    failing = engine(EngineState.WAITING, running=False, away=True, failures=3, next_start=NOW + 9)
    assert decide(wanted, local(failing, old[1])) is None


def test_a_leaving_node_starts_nothing():
    assert decide(WANTED, local(leaving=True)) is None


@given(st.integers(1, 200), st.text(min_size=1, max_size=20))
def test_restart_delay_stays_within_its_bounds(failures: int, name: str):
    delay = restart_delay(name, failures, TIMERS)
    assert 0.8 * TIMERS.restart_delay <= delay <= TIMERS.restart_delay_max
    ideal = min(2.0 ** (failures - 1), 60.0) if failures < 10 else 60.0
    assert 0.8 * ideal <= delay <= ideal


STATES = st.sampled_from(EngineState)
ENGINES = st.builds(
    Actual,
    id=st.sampled_from(["m-0", "m-1", "x-0"]),
    state=STATES,
    since=st.floats(0, NOW),
    fingerprint=st.sampled_from(["", "f1", "f2"]),
    running=st.booleans(),
    ready=st.booleans(),
    answered=st.none() | st.floats(0, NOW),
    looked=st.none() | st.floats(0, NOW),
    requests=st.integers(0, 3),
    progressed=st.floats(0, NOW),
    worked=st.floats(0, NOW),
    ending=st.booleans(),
    exit=st.none() | st.just("exited with code 1"),
    failures=st.integers(0, 5),
    next_start=st.none() | st.floats(0, 2 * NOW),
)


@given(st.lists(ENGINES, max_size=3, unique_by=lambda e: e.id), st.booleans())
def test_every_decision_names_its_engine_and_never_starts_what_runs(engines: list[Actual], leaving: bool):
    wanted = {i: Wanted(id=i, fingerprint="f1") for i in ("m-0", "m-1")}
    here = local(*engines, leaving=leaving)
    action = plan(wanted, here, TIMERS)
    if action is None:
        return
    assert f"engine {action.engine} " in action.reason
    if isinstance(action, reconcile.Start):
        assert not leaving
        actual = here.engines.get(action.engine)
        assert actual is None or not actual.running


def test_a_node_waits_for_its_turn_to_replace_engines():
    former = local(engine(fingerprint="former"))
    assert decide(WANTED, former) == ("Stop", "engine m-0 is replaced: its configuration changed")
    assert decide(WANTED, msgspec.structs.replace(former, waits=True)) is None
    assert reconcile.replacing(WANTED, former.engines) == "waits"


def test_a_replaced_engine_that_is_no_good_goes_at_once_when_another_one_is_wanted():
    bad = engine(EngineState.STARTING, fingerprint="bad", ready=False, answered=None, away=True)
    assert decide(WANTED, local(bad)) == (
        "Stop",
        "engine m-0 is replaced before it is ready: its configuration changed",
    )
    assert reconcile.replacing(WANTED, local(bad).engines) == "acts"
    assert reconcile.replacing(WANTED, local(engine()).engines) == ""
