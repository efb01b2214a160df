import asyncio

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.node import seen as seen_module
from shoal.node.seen import NotGoodError, Seen

READY, WAITING, STARTING = EngineState.READY, EngineState.WAITING, EngineState.STARTING


def engine(state: EngineState, instance: str = "new", restarts: int = 1, **more: object) -> EngineReport:
    facts = {"id": "m-0", "model": "m", "kind": "sim", "host": "a"} | more
    return EngineReport(state=state, instance=instance, restarts=restarts, **facts)  # type: ignore[arg-type]


def view(*engines: EngineReport, state: MemberState = MemberState.ALIVE) -> View:
    report = NodeReport(name="a:1", version="1", engines=engines)
    return View(me="b:1", members=(Member(name="a:1", state=state, report=report),))


OLD = engine(READY, "old", 0)


def wait(*views: View, before: EngineReport | None = OLD, limit: float = 5) -> EngineReport:
    """Wait while one view after the other is seen, the last one for ever."""
    left = list(views)

    def next_view() -> View:
        return left[0] if len(left) == 1 else left.pop(0)

    return asyncio.run(Seen(next_view).ready("a:1", "m-0", before, limit))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_module, "LOOK_EVERY", 0.001)


def test_the_former_engine_is_not_taken_for_the_new_one():
    ready = engine(READY)
    assert wait(view(OLD), view(OLD), view(engine(STARTING)), view(ready)) == ready


def test_a_new_engine_has_no_former_one():
    ready = engine(READY, restarts=0)
    assert wait(view(), view(engine(STARTING, restarts=0)), view(ready), before=None) == ready


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (view(engine(WAITING, "", detail="restarts in 1 s: it exited with code 1")), "it exited with code 1"),
        (view(engine(WAITING, "", errors=("no kernel",))), r"\(no kernel\)"),
        (view(engine(STARTING, "again", restarts=2)), "does not start"),
        (view(OLD, state=MemberState.DEAD), "node a:1 is gone"),
        (View(me="b:1"), "node a:1 is gone"),
    ],
)
def test_one_failed_start_is_enough(seen: View, why: str):
    with pytest.raises(NotGoodError, match=why):
        wait(seen)


def test_it_must_be_ready_in_time():
    with pytest.raises(NotGoodError, match="not ready within"):
        wait(view(engine(STARTING)), limit=0.02)


def test_a_node_serves_when_all_its_engines_are_in_rotation():
    def serves(seen: View) -> bool:
        return Seen(lambda: seen).serves("a:1")

    assert serves(view(OLD))
    assert not serves(view(OLD, engine(STARTING)))
    assert not serves(view(engine(READY, standby=True)))
    assert serves(view(engine(STARTING), state=MemberState.DEAD))  # nothing to wait for
    assert not asyncio.run(Seen(lambda: view(engine(STARTING))).serve_again("a:1", 0, 0.01))
    assert asyncio.run(Seen(lambda: view(OLD)).serve_again("a:1", 0, 0.01))
