"""A node's parts in engines across nodes: ports, what is remembered, what is shown and asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shoal.cluster.group_types import GroupTimers, Place
from shoal.cluster.view import (
    EngineState,
    Member,
    MemberState,
    NodeReport,
    Offer,
    SeatReport,
    SeatState,
    View,
)
from shoal.engine.ports import hold
from shoal.engine.spec import EngineSpec, Part
from shoal.node.parts import Parts, PartSettings, PlannedPart
from shoal.node.reconcile import Actual
from support.ports import free_ports

A, B = "a:1", "b:1"
SPEC = EngineSpec(id="m-0", model="m", kind="sim", model_path="m", served_name="m", gpus=())
RUNNING = Part(group="a:1/m-0", generation=5, nodes=(A, B), rank=1, host="h", port=1, tokens=(7, 8))


def planned(rank: int, *, data: bool = False, group: str = "a:1/m-0") -> dict[str, PlannedPart]:
    place = Place(engine="m-0", group=group, model="m", nodes=(A, B), rank=rank)
    return {"m-0": PlannedPart(spec=SPEC, place=place, data=data)}


class Node:
    """The parts of one node, and what it hears of the other one."""

    def __init__(self, state_dir: Path, me: str, *, data: bool = False, finishes: bool = False) -> None:
        port = free_ports(1)[0]
        self.me, self.said = me, []  # type: ignore[var-annotated]
        settings = PartSettings(
            node=me,
            state_dir=state_dir,
            listen="127.0.0.1",
            address="127.0.0.1",
            interface="lo",
            advertised="127.0.0.1",
            ports=(port, port + 30),
            timers=GroupTimers(delay=lambda _: 0.0),
            finishes=finishes,
        )
        self.parts = Parts(settings, self.said.append)
        self.parts.want(planned((A, B).index(me), data=data))
        self.now = 0.0

    def step(self, other: SeatReport | None = None, engine: Actual | None = None, **more: Any) -> None:
        self.now += 1
        name = B if self.me == A else A
        theirs = NodeReport(name=name, version="1", incarnation=8, seats=(other,) if other else ())
        mine = NodeReport(name=self.me, version="1", incarnation=7, seats=self.parts.seats({}))
        members = (
            Member(name=self.me, state=MemberState.ALIVE, report=mine, is_self=True),
            Member(name=name, state=MemberState.ALIVE, report=theirs),
        )
        view = View(me=self.me, members=tuple(sorted(members, key=lambda m: m.name)))
        engines = {"m-0": engine} if engine else {}
        self.parts.step(view, engines, {}, self.now, leaving=False, **more)

    def form(self) -> EngineSpec:
        """As the leader: offer a generation, hear that the other one has joined, and return what to start."""
        self.step(follower())
        self.step(follower())
        offer = self.parts.seats({})[0].offer
        assert offer is not None
        joined = follower(generation=offer.generation, leader=A, token=8, state=SeatState.JOINED)
        self.step(joined)
        return self.parts.specs()["m-0"]


def follower(**more: Any) -> SeatReport:
    return SeatReport(engine="m-0", group="a:1/m-0", model="m", rank=1, **more)


def actual(generation: int, **more: Any) -> Actual:
    facts: dict[str, Any] = {"state": EngineState.STARTING, "since": 0.0, "running": True} | more
    return Actual(id="m-0", generation=generation, fingerprint=SPEC.fingerprint(), **facts)


def test_each_generation_meets_at_ports_of_its_own_that_are_held(tmp_path: Path):
    node = Node(tmp_path, A, data=True)
    first = node.form().part
    assert first is not None
    assert (first.generation, first.nodes, first.tokens, first.interface) == (1, (A, B), (7, 8), "lo")
    assert hold("127.0.0.1", first.port) is hold("127.0.0.1", first.rpc_port) is None
    node.step(follower(generation=1, leader=A, token=8), actual(1))
    assert node.parts.specs() == {}
    second = node.form().part
    assert second is not None
    assert second.generation == 2
    assert len({first.port, first.rpc_port, second.port, second.rpc_port}) == 4
    assert hold("127.0.0.1", first.port) is not None


def test_the_newest_generation_is_remembered_over_a_restart(tmp_path: Path):
    Node(tmp_path, A).form()
    again = Node(tmp_path, A)
    again.step()
    assert again.parts.seats({})[0].generation == 1
    (tmp_path / "groups" / "m-0.json").write_text("not JSON")
    lost = Node(tmp_path, A)
    lost.step()
    assert lost.parts.seats({})[0].generation == 0


def test_a_part_that_went_on_running_is_taken_up_again_and_another_groups_is_not(tmp_path: Path):
    leads = SeatReport(engine="m-0", group="a:1/m-0", model="m", rank=0, generation=5, leader=A, token=7)
    node = Node(tmp_path, B)
    node.parts.resume({"m-0": (RUNNING, 4000)}, 0.0)
    node.step(leads, actual(5, follows=True))
    assert node.parts.wanted()["m-0"].generation == 0  # its leader has ended it
    node = Node(tmp_path, B)
    node.parts.resume({"m-0": (RUNNING, 4000)}, 0.0)
    assert node.parts.seats({})[0].state is SeatState.RUNNING  # the first thing that the others hear
    offer = Offer(generation=5, members=(A, B), host="h", port=1, tokens=(7, 8))
    running = msgspec.structs.replace(leads, state=SeatState.RUNNING, offer=offer)
    node.step(running, actual(5, follows=True))
    assert node.parts.wanted()["m-0"].generation == 5
    assert node.parts.follows()
    assert node.parts.seats({"m-0": (RUNNING, 4000)})[0].lifeline == 4000
    other = Node(tmp_path, B)
    other.parts.want(planned(1, group="c:1/m-0"))
    other.parts.resume({"m-0": (RUNNING, 4000)}, 0.0)
    other.step(None, actual(5, follows=True))
    assert other.parts.wanted()["m-0"].generation == 0


def test_a_part_that_this_node_is_not_to_take_any_more_is_ended_first_and_then_forgotten(tmp_path: Path):
    node = Node(tmp_path, A)
    node.form()
    running = follower(generation=1, leader=A, token=8, state=SeatState.RUNNING)
    node.step(running, actual(1))
    node.parts.want({})
    node.step(running, actual(1))
    assert node.parts.wanted()["m-0"].generation == 0
    node.step(running, actual(1, running=False))
    node.step(running)
    assert node.parts.wanted() == {}


def test_an_engine_that_waits_is_shown_at_its_leader_with_what_it_waits_for(tmp_path: Path):
    node = Node(tmp_path, A)
    node.parts.resume({}, 0.0)
    node.step()
    (report,) = node.parts.shown(())
    assert (report.id, report.state) == ("m-0", EngineState.WAITING)
    assert report.detail == f"waits for node {B}: it has no place in this group by its own configuration"
    follows = Node(tmp_path / "b", B)
    follows.step()
    assert follows.parts.shown(()) == ()


def test_a_changed_configuration_ends_what_runs(tmp_path: Path):
    node = Node(tmp_path, A)
    node.form()
    running = follower(generation=1, leader=A, token=8, state=SeatState.RUNNING)
    node.step(running, msgspec.structs.replace(actual(1), fingerprint="other"))
    assert node.parts.wanted()["m-0"].generation == 0
    assert f"group a:1/m-0: generation 1 has ended: its configuration on {A} has changed" in node.said


def test_where_its_place_is_kept_till_then_a_part_that_is_not_wanted_any_more_finishes_first(tmp_path: Path):
    node = Node(tmp_path, A, finishes=True)
    node.form()
    running = follower(generation=1, leader=A, token=8, state=SeatState.RUNNING)
    node.step(running, actual(1))
    node.parts.want({})
    node.step(running, actual(1))
    wanted = node.parts.wanted()["m-0"]
    assert (wanted.generation, wanted.drain) == (1, True)
    node.step(running, actual(1, running=False))
    assert node.said[-1] == "group a:1/m-0: generation 1 has ended: it is not wanted any more"
    node.step(running)
    assert node.parts.wanted() == {}


def test_a_follower_that_is_not_wanted_any_more_goes_on_until_its_leader_has_ended_it(tmp_path: Path):
    node = Node(tmp_path, B, finishes=True)
    node.parts.resume({"m-0": (RUNNING, 4000)}, 0.0)
    offer = Offer(generation=5, members=(A, B), host="h", port=1, tokens=(7, 8))
    leads = SeatReport(engine="m-0", group="a:1/m-0", model="m", rank=0, generation=5, leader=A, token=7)
    running = msgspec.structs.replace(leads, state=SeatState.RUNNING, offer=offer)
    # Another group gets the node, while the leader of the former one finishes.
    node.parts.want(planned(1, group="c:1/m-0"))
    node.step(running, actual(5, follows=True))
    wanted = node.parts.wanted()["m-0"]
    assert (wanted.generation, wanted.drain) == (5, False)
    node.step(msgspec.structs.replace(leads, reason="node a:1 leaves"), actual(5, follows=True))
    assert node.parts.wanted()["m-0"].generation == 0
    node.step(leads)
    assert node.parts.seats({})[0].group == "a:1/m-0"
    node.step(leads)
    assert node.parts.seats({})[0].group == "c:1/m-0"
