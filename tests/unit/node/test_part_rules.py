"""What the rules do with a part of an engine that spans nodes: whether it runs is decided for all of them."""

from __future__ import annotations

from typing import Any

from shoal.cluster.view import EngineState
from shoal.node.reconcile import Action, Actual, Local, Timers, Wanted, plan

NOW = 1000.0


def part(generation: int = 3, **more: Any) -> Actual:
    facts: dict[str, Any] = {
        "state": EngineState.STARTING,
        "since": NOW - 10,
        "running": True,
        "follows": True,
    }
    return Actual(id="m-0", generation=generation, **(facts | more))


def decide(generation: int, *engines: Actual, drain: bool = False, leaving: bool = False) -> Action | None:
    want = Wanted(id="m-0", fingerprint="f", part=True, generation=generation, drain=drain)
    here = Local(now=NOW, engines={e.id: e for e in engines}, leaving=leaving)
    return plan({"m-0": want}, here, Timers())


def told(action: Action | None) -> tuple[str, str] | None:
    return None if action is None else (type(action).__name__, action.reason)


def test_a_part_is_started_when_its_generation_is_and_not_before():
    assert decide(0) is None
    assert told(decide(3)) == ("Start", "engine m-0 starts")
    assert decide(3, part()) is None


def test_a_part_whose_generation_is_over_is_killed_at_once():
    sentence = "engine m-0 is killed: it belongs to generation 3, which has ended"
    assert told(decide(0, part())) == told(decide(4, part())) == ("Kill", sentence)
    assert told(plan({}, Local(now=NOW, engines={"m-0": part()}), Timers())) == ("Kill", sentence)
    assert decide(0, part(ending=True)) is None
    assert told(decide(0, part(ending=True, state=EngineState.DRAINING))) == ("Kill", sentence)


def test_the_exit_of_a_part_is_laid_down_when_the_group_has_taken_note_and_never_retried_by_itself():
    gone = part(running=False, exit="exited with code 0")
    assert told(decide(0, gone)) == ("LayDown", "engine m-0 exited with code 0")
    assert decide(3, gone) is None


def test_a_part_that_has_ended_is_kept_in_mind_while_it_is_this_nodes():
    assert decide(0, part(running=False)) is None
    assert told(decide(4, part(running=False))) == ("Start", "engine m-0 starts")
    left = plan({}, Local(now=NOW, engines={"m-0": part(running=False)}), Timers())
    assert told(left) == ("Forget", "engine m-0 is gone: it is no longer wanted")


def test_a_follower_has_no_time_in_which_it_must_get_ready_and_a_leader_has():
    slow = {"since": NOW - 1000}
    assert decide(3, part(**slow)) is None
    assert "start_timeout" in str(told(decide(3, part(follows=False, **slow))))


def test_an_engine_that_a_node_leaves_finishes_what_it_runs():
    ready = part(state=EngineState.READY, ready=True, follows=False, looked=NOW, answered=NOW, progressed=NOW)
    assert told(decide(3, ready, drain=True)) == ("Stop", "engine m-0 finishes and stops on all its nodes")


def test_a_part_with_a_stopped_process_is_killed():
    hangs = part(broken="hangs: its process VLLM::Worker (pid 7) is stopped")
    assert told(decide(3, hangs)) == (
        "Kill",
        "engine m-0 is killed: it hangs: its process VLLM::Worker (pid 7) is stopped",
    )


def test_a_changed_configuration_is_the_groups_affair():
    assert decide(3, part(fingerprint="other")) is None
