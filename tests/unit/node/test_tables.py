import json

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.node.tables import External, pending, routable, routing_table
from shoal.routing.table import EngineTarget
from support.configs import config

CONFIG = config(
    """
    nodes: [{host: 127.0.0.1, port: 8000}, {host: 127.0.0.1, port: 8001, weight: 3}]
    model: {path: /models/m, policy: round_robin}
    """
)


def engine(state: EngineState = EngineState.READY, **more: object) -> EngineReport:
    facts = {
        "id": "m-0",
        "model": "m",
        "kind": "vllm",
        "host": "127.0.0.1",
        "port": 20000,
        "served": ("m",),
    } | more
    return EngineReport(state=state, **facts)  # type: ignore[arg-type]


def member(port: int, state: MemberState, *engines: EngineReport, draining: bool = False) -> Member:
    name = f"127.0.0.1:{port}"
    report = NodeReport(name=name, version="1", engines=engines, draining=draining)
    return Member(name=name, state=state, report=report)


def view(*members: Member) -> View:
    return View(me="127.0.0.1:8000", members=members)


def table(seen: View, answers: dict[str, bool] | None = None, externals: list[External] | None = None):
    return routing_table(CONFIG, seen, version=1, slot=len, answers=answers or {}, externals=externals or [])


ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT


def test_ready_engines_of_all_members_are_routed_to_with_their_nodes_weight():
    seen = view(member(8000, ALIVE, engine()), member(8001, ALIVE, engine()))
    targets = table(seen).routes["m"].engines
    assert [(t.id, t.weight) for t in targets] == [("127.0.0.1:8000/m-0", 1.0), ("127.0.0.1:8001/m-0", 3.0)]
    assert table(seen).routes["m"].policy == "round_robin"


def test_each_engine_is_reached_as_it_says_that_it_wants_to_be():
    """Nodes may differ in `cluster.tls` for a while, and engines that were adopted from what their node has now."""
    seen = view(member(8000, ALIVE, engine(authority="a1")), member(8001, ALIVE, engine()))
    assert [(t.authority, t.tls) for t in table(seen).routes["m"].engines] == [("a1", False), ("", False)]


@pytest.mark.parametrize("state", [s for s in EngineState if s is not EngineState.READY])
def test_an_engine_that_is_not_ready_gets_nothing(state: EngineState):
    assert table(view(member(8000, ALIVE, engine(state)))).routes["m"].engines == ()


@pytest.mark.parametrize(
    ("state", "answers", "used"),
    [
        (ALIVE, False, True),  # the owner knows better than our probe
        (SUSPECT, None, True),
        (SUSPECT, False, False),
        (DEAD, None, False),
        (DEAD, True, True),  # the node process is gone, its engine is not
        (LEFT, True, False),
    ],
)
def test_engines_of_members_that_are_not_alive_are_used_while_they_answer(
    state: MemberState, answers: bool | None, used: bool
):
    known = {} if answers is None else {"127.0.0.1:8001/m-0": answers}
    assert bool(list(routable(view(member(8001, state, engine())), known))) is used


def test_a_draining_member_gets_no_new_requests():
    assert not list(routable(view(member(8001, ALIVE, engine(), draining=True)), {}))


def test_the_spare_engine_of_a_hot_standby_gets_nothing_and_is_no_progress_either():
    seen = view(member(8001, ALIVE, engine(standby=True)))
    assert table(seen).routes["m"].engines == ()
    assert table(seen).routes["m"].pending == "model m has no engine in the cluster yet"
    assert table(seen).lost == ()
    assert not list(routable(view(member(8001, DEAD, engine(standby=True))), {"127.0.0.1:8001/m-0": True}))


def test_models_list_is_the_union_of_what_ready_engines_serve():
    seen = view(
        member(8000, ALIVE, engine(served=("m", "m-lora"), max_model_len=2048)),
        member(8001, ALIVE, engine(served=("m",), max_model_len=2048)),
    )
    body = json.loads(table(seen).models_body)
    assert [m["id"] for m in body["data"]] == ["m", "m-lora"]
    assert body["data"][0]["max_model_len"] == 2048
    assert set(table(seen).routes) == {"m", "m-lora"}


def test_a_configured_model_without_a_ready_engine_is_known_but_not_listed():
    seen = view(member(8000, ALIVE, engine(EngineState.STARTING, detail="loading weights 50 %", since=41.0)))
    got = table(seen)
    assert json.loads(got.models_body)["data"] == []
    assert got.routes["m"].pending == (
        "no engine of model m is ready (0 of 1); 127.0.0.1:8000/m-0: loading weights 50 %, 41 s so far"
    )


def test_pending_says_when_nothing_is_known():
    assert pending("m", view()) == "model m has no engine in the cluster yet"


def test_only_of_vllm_token_ids_are_expected():
    for kind, expected in (("vllm", True), ("sim", True), ("command", False)):
        (target,) = table(view(member(8000, ALIVE, engine(kind=kind)))).routes["m"].engines
        assert target.token_ids is expected


def test_ready_external_engines_are_routed_to():
    target = EngineTarget(id="external/m-0", slot=0, host="example.com", port=443, tls=True)
    up = External(report=engine(kind="external"), target=target)
    down = External(report=engine(EngineState.UNHEALTHY, kind="external"), target=target)
    assert table(view(), externals=[up]).routes["m"].engines == (target,)
    assert table(view(), externals=[down]).routes["m"].engines == ()


def test_an_engine_of_a_model_this_file_does_not_have_is_left_out():
    assert set(table(view(member(8001, ALIVE, engine(model="other", served=("other",))))).routes) == {"m"}


@pytest.mark.parametrize(
    ("member_state", "engine_state", "answers", "is_lost"),
    [
        (ALIVE, EngineState.READY, {}, False),
        (ALIVE, EngineState.DRAINING, {}, False),
        (ALIVE, EngineState.STOPPING, {}, False),
        (ALIVE, EngineState.UNHEALTHY, {}, True),
        (ALIVE, EngineState.WAITING, {}, True),
        (SUSPECT, EngineState.READY, {}, False),
        (SUSPECT, EngineState.READY, {"127.0.0.1:8001/m-0": False}, True),
        (DEAD, EngineState.READY, {}, True),
        (DEAD, EngineState.READY, {"127.0.0.1:8001/m-0": True}, False),
        (LEFT, EngineState.READY, {}, True),
    ],
)
def test_engines_from_which_nothing_is_to_be_expected_are_named(
    member_state: MemberState, engine_state: EngineState, answers: dict[str, bool], is_lost: bool
):
    seen = view(member(8001, member_state, engine(engine_state)))
    assert table(seen, answers).lost == (("127.0.0.1:8001/m-0",) if is_lost else ())


@pytest.mark.parametrize(
    ("setting", "of_model", "own", "external"),
    [
        ("auto", "null", 288, 0),
        ("off", "null", 0, 0),
        ("7", "null", 7, 7),
        ("7", "auto", 288, 0),
        ("auto", "5", 5, 5),
        ("5", "off", 0, 0),
    ],
)
def test_an_engine_has_the_capacity_it_reports_or_the_one_of_the_file(
    setting: str, of_model: str, own: int, external: int
):
    text = f"""
    nodes: [{{host: 127.0.0.1}}]
    models:
      - {{path: /models/m, max_in_flight: {of_model}}}
      - {{name: x, engine: external, addresses: [{{url: "http://h:1"}}], max_in_flight: {of_model}}}
    admission: {{max_in_flight: {setting}}}
    """
    target = EngineTarget(id="external/x-0", slot=0, host="h", port=1)
    got = routing_table(
        config(text),
        view(member(8000, ALIVE, engine(capacity=288))),
        version=1,
        slot=len,
        model_slot={"m": 3, "x": 4}.__getitem__,
        answers={},
        externals=[External(report=engine(kind="external", model="x", served=()), target=target)],
    )
    assert [e.capacity for e in got.routes["m"].engines] == [own]
    assert [e.capacity for e in got.routes["x"].engines] == [external]
    assert (got.routes["m"].slot, got.routes["x"].slot) == (3, 4)
