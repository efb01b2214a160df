import msgspec
import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.node.floor import below_floor, engines_of
from support.configs import config

CONFIG = config(
    """
    nodes: [{host: a, port: 1}, {host: b, port: 1}, {host: c, port: 1}]
    models: [{name: m, path: m, engine: sim, min_engines: 2}, {name: n, path: n, engine: sim}]
    """
)


def member(node: str, *models: str, state: EngineState = EngineState.READY, **more: bool) -> Member:
    engines = tuple(EngineReport(id=f"{m}-0", model=m, kind="sim", state=state, host=node) for m in models)
    report = NodeReport(name=f"{node}:1", version="1", engines=engines, **more)
    return Member(name=f"{node}:1", state=MemberState.ALIVE, report=report)


def view(*members: Member) -> View:
    return View(me="a:1", members=members)


def problem(seen: View, node: str) -> str | None:
    return below_floor(CONFIG, seen, {}, engines_of(seen, node))


def test_enough_must_be_left_of_every_model():
    three = view(member("a", "m"), member("b", "m"), member("c", "m", "n"))
    assert problem(three, "a:1") is None
    assert problem(three, "c:1") == "model n would have 0 engines in rotation, and `min_engines` asks for 1"
    two = view(member("a", "m"), member("b", "m"))
    assert problem(two, "a:1") == "model m would have 1 engine in rotation, and `min_engines` asks for 2"


@pytest.mark.parametrize("why", [{"drained": True}, {"draining": True}])
def test_engines_that_get_no_requests_count_for_nothing(why: dict[str, bool]):
    seen = view(member("a", "m"), member("b", "m"), member("c", "m", **why))
    assert problem(seen, "a:1") is not None
    assert problem(seen, "c:1") is None


def test_what_serves_nothing_may_always_go():
    seen = view(member("a", "m", state=EngineState.STARTING))
    assert problem(seen, "a:1") is None
    assert problem(view(), "x:1") is None


def test_a_floor_of_none_lets_the_last_one_go():
    relaxed = CONFIG.model_copy(
        update={"several": tuple(m.model_copy(update={"min_engines": 0}) for m in CONFIG.models)}
    )
    seen = view(msgspec.structs.replace(member("a", "m")))
    assert below_floor(relaxed, seen, {}, ["a:1/m-0"]) is None
