"""What the controller does about nodes and engines, with a Ray in its place that only keeps books."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.substrate import controller as tested
from shoal.substrate import engines as tested_engines
from shoal.substrate.plan import RayNode
from shoal.substrate.ray_api import document_of
from support.configs import config

TEXT = """
nodes: [{host: x, port: 8000}]
model: {name: m, path: m, engine: sim, replicas: {min: 1, max: 2, up_after: 2, down_after: 4}}
cluster: {release_after: 5}
"""
A, B, C = (letter * 56 for letter in "abc")


class Call:
    """A method of an actor."""

    def __init__(self, does: Callable[..., Any]) -> None:
        self.remote = does


class Node:
    """A machine with its actor and, perhaps, a Shoal node."""

    def __init__(self, world: World, id_: str) -> None:
        self.world, self.id = world, id_
        self.name, self.runs, self.answers, self.actor_answers = "", False, True, True
        self.joined = ""
        self.allotted: dict[str, dict[str, Any]] = {}
        self.engines: dict[str, str] = {}
        self.parts: dict[str, str] = {}
        self.waiting = 0
        self.said: list[str] = []
        self.shoal = "0.1.0"
        for name in ("versions", "report", "serve", "allot", "leave", "forget"):
            setattr(self, name, Call(getattr(self, f"_{name}")))

    def _versions(self) -> Any:
        return {**self.world.versions, "shoal": self.shoal} if self.actor_answers else None

    def _report(self) -> Any:
        if not self.actor_answers:
            return None
        said = {
            "node": self.name,
            "generation": 0,
            "models": [
                {
                    "name": "m",
                    "replicas": self.world.replicas,
                    "engines_per_node": 1,
                    "span": self.world.span,
                    "gpus": self.world.gpus,
                    "kind": "sim",
                }
            ],
            "release_after": self.world.release_after,
            "allotted": self.allotted,
            "engines": [{"id": i, "model": "m", "state": s} for i, s in self.engines.items()],
            "parts": [{"id": i, "model": "m", "state": s} for i, s in self.parts.items()],
            "waiting": {"m": self.waiting},
            "first": {},
            "members": self.world.members,
        }
        return {"name": self.name, "runs": self.runs, "said": said if self.runs and self.answers else None}

    def _serve(self, name: str, join: str) -> Any:
        self.name, self.runs, self.joined = name, True, join
        self.world.started.append((self.id[0], name, join))
        self.world.members[name] = "alive"
        return ""

    def _allot(self, engines: dict[str, Any], say: list[str]) -> Any:
        self.allotted = engines
        self.said += say
        seats = engines.get("m", {})
        self.engines = {f"m-{number}": "ready" for number, seat in seats.items() if not seat["rank"]}
        gone = self.parts if self.world.parts_stay else {}
        self.parts = gone | {f"m-{number}": "running" for number, seat in seats.items() if seat["nodes"]}
        return ""

    def _leave(self, node: str = "") -> Any:
        self.world.left.append(node or self.name)
        if not node:
            self.runs = False
        self.world.members.pop(node or self.name, None)
        return ""

    def _forget(self, node: str) -> Any:
        self.world.forgotten.append(node)
        self.world.members.pop(node, None)
        return ""


class World:
    """All that there is: what `Ray` stands for in these tests."""

    version = "2.60.0"

    def __init__(self) -> None:
        self.machines: dict[str, Node] = {}
        self.actors: dict[str, Node] = {}
        self.table: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.span = 1
        self.gpus: int | None = None
        self.parts_stay = self.stale = False
        self.held: dict[tuple[str, int], Call] = {}
        self.members: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.started: list[tuple[str, str, str]] = []
        self.left: list[str] = []
        self.forgotten: list[str] = []
        self.room: dict[str, int] = {}
        self.release_after = 0.0
        self.replicas: dict[str, Any] = {"min": 1, "max": 2, "up_after": 2, "down_after": 4}

    def add(self, id_: str, room: int = 1) -> Node:
        self.machines[id_] = Node(self, id_)
        self.room[id_] = room
        return self.machines[id_]

    def nodes(self) -> list[RayNode]:
        return [RayNode(id=i, address=f"10.0.0.{ord(i[0])}", head=i == A) for i in sorted(self.machines)]

    def start_actor(self, kind: Any, name: str, arguments: tuple[Any, ...], *, node: str) -> Node:
        return self.actors.setdefault(node, self.machines[node])

    def kill(self, actor: Node) -> None:
        del self.actors[actor.id]

    def actor(self, name: str) -> None:
        return None

    def ask(self, calls: Mapping[str, Any], timeout: float = 1.0) -> dict[str, Any]:
        return {key: answer for key, answer in calls.items() if answer is not None}

    def groups(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        for name, (_, before) in self.table.items() if not self.stale else ():
            nodes = [node if node in self.machines else "" for node in before]
            for rank in (r for r, node in enumerate(nodes) if not node):
                used = [n for other, (_, ns) in self.table.items() if other != name for n in ns] + nodes
                free = [i for i in self.machines if used.count(i) < self.room[i] and i not in nodes]
                nodes[rank] = free[0] if free else ""
            self.table[name] = name, tuple(nodes)
        return dict(self.table)

    def make_group(self, name: str, cpus: float, gpus: int, *, span: int, node: str = "") -> None:
        self.table[name] = name, (node,) * span

    def holder(self, kind: Any, group: str, replica: str, rank: int, gpus: int) -> Any:
        indices = list(range(rank, rank + gpus))
        made = self.held.setdefault((replica, rank), Call(lambda: indices))
        return SimpleNamespace(gpus=made)

    def give_back(self, group: str, replica: str, span: int) -> None:
        for rank in range(span):
            self.held.pop((replica, rank), None)
        del self.table[group]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(tested, "Ray", lambda: made)
    monkeypatch.setattr(tested_engines, "Holder", SimpleNamespace())
    return made


@pytest.fixture
def controller(world: World) -> tested.Controller:
    return start(world)


def start(world: World) -> tested.Controller:
    made = tested.Controller(document_of(config(TEXT)), "up", begin=False)
    world.versions = dict(made._versions)
    for machine in world.machines.values():
        machine.shoal = world.versions["shoal"]
    return made


def add(world: World, id_: str, room: int = 1) -> Node:
    node = world.add(id_, room)
    node.shoal = world.versions["shoal"]
    return node


def test_the_first_node_starts_alone_and_the_others_join_it(
    controller: tested.Controller, world: World
) -> None:
    for id_ in (A, B, C):
        add(world, id_)
    world.machines[A].answers = False
    controller.round(0)
    controller.round(1)  # the first one runs, but nobody can join it yet
    assert world.started == [("a", "10.0.0.97:8000", "")]
    world.machines[A].answers = True
    controller.round(2)
    assert world.started[1:] == [
        ("b", "10.0.0.98:8000", "10.0.0.97:8000"),
        ("c", "10.0.0.99:8000", "10.0.0.97:8000"),
    ]


def test_nobody_founds_a_second_cluster_while_an_actor_is_silent(
    controller: tested.Controller, world: World
) -> None:
    add(world, A)
    add(world, B).actor_answers = False
    controller.round(0)
    assert world.started == []
    world.machines[B].actor_answers = True
    controller.round(20)
    assert [who for who, *_ in world.started] == ["a"]


def test_a_node_of_another_version_is_left_out(controller: tested.Controller, world: World) -> None:
    add(world, A)
    add(world, B).shoal = "9.0.0"
    for now in range(3):
        controller.round(now)
    assert [who for who, *_ in world.started] == ["a"]
    assert "it has Shoal 9.0.0" in controller.status()["nodes"][B]["problem"]


def test_a_node_process_that_died_is_started_again_and_rejoins(
    controller: tested.Controller, world: World
) -> None:
    for id_ in (A, B):
        add(world, id_)
    controller.round(0)
    controller.round(1)
    world.machines[A].runs = False
    controller.round(20)
    assert world.started[-1] == ("a", "10.0.0.97:8000", "10.0.0.98:8000")


def test_engines_come_where_there_is_room_and_follow_the_load(
    controller: tested.Controller, world: World
) -> None:
    for id_ in (A, B):
        add(world, id_)
    now = 0.0
    for _ in range(4):
        controller.round(now := now + 1)
    assert list(world.table) == ["shoal-shoal:m/0"]
    assert world.machines[A].engines == {"m-0": "ready"}
    world.machines[B].waiting = 9
    for _ in range(6):
        controller.round(now := now + 1)
    assert sorted(world.table) == ["shoal-shoal:m/0", "shoal-shoal:m/1"]
    assert world.machines[B].engines == {"m-0": "ready"}
    assert world.machines[A].said == [
        "model m: 1 -> 2 engines: 9 requests wait for 1 engine (`replicas.queue` is 4)"
    ]
    world.machines[B].waiting = 0
    for _ in range(9):
        controller.round(now := now + 1)
    assert len(world.table) == 1 and controller.status()["models"] == {"m": {"engines": 1, "ready": 1}}
    # A controller that is started again finds it so, and leaves it so.
    table = dict(world.table)
    again = start(world)
    for _ in range(9):
        again.round(now := now + 1)
    assert world.table == table and len(world.started) == 2


def test_engines_go_on_while_no_node_answers_the_controller(
    controller: tested.Controller, world: World
) -> None:
    add(world, A)
    for now in range(4):
        controller.round(now)
    world.machines[A].actor_answers = False
    controller.round(5)
    world.machines[A].actor_answers = True
    controller.round(6)
    assert world.machines[A].engines == {"m-0": "ready"}


def test_what_ray_has_lost_leaves_or_is_forgotten(controller: tested.Controller, world: World) -> None:
    for id_ in (A, B, C):
        add(world, id_)
    for now in range(4):
        controller.round(now)
    world.members["10.0.0.99:8000"] = "dead"
    add(world, "d" * 56).actor_answers = False  # nobody waits for one that is just starting
    del world.machines[B], world.machines[C], world.actors[B], world.actors[C]
    controller.round(5)
    assert (world.left, world.forgotten) == (["10.0.0.98:8000"], ["10.0.0.99:8000"])


def test_nodes_without_engines_are_given_back_and_taken_again(
    controller: tested.Controller, world: World
) -> None:
    for id_ in (A, B):
        add(world, id_)
    world.release_after = 5.0
    now = 0.0
    for _ in range(12):
        controller.round(now := now + 1)
    assert world.left == ["10.0.0.98:8000"] and set(world.actors) == {A}  # the head keeps its node
    world.machines[A].waiting = 9
    for _ in range(20):
        controller.round(now := now + 1)
    assert set(world.actors) == {A, B}
    assert world.machines[B].engines == {"m-0": "ready"}


def rounds(controller: tested.Controller, begin: float, count: int) -> float:
    for now in range(count):
        controller.round(begin + now)
    return begin + count


def test_an_engine_across_nodes_has_its_group_and_all_its_nodes_are_told_the_same(
    controller: tested.Controller, world: World
) -> None:
    world.span, world.gpus = 2, 1
    add(world, A)
    now = rounds(controller, 0, 4)
    assert world.table == {"shoal-shoal:m/0": ("shoal-shoal:m/0", (A, ""))}
    assert world.machines[A].allotted == {}  # nothing begins with half of it
    add(world, B)
    rounds(controller, now, 4)
    names = ("10.0.0.97:8000", "10.0.0.98:8000")
    told = [world.machines[i].allotted["m"]["0"] for i in (A, B)]
    assert [(s["replica"], tuple(s["nodes"]), s["rank"], tuple(s["gpus"])) for s in told] == [
        ("m/0", names, 0, (0,)),
        ("m/0", names, 1, (1,)),
    ]
    assert controller.status()["models"] == {"m": {"engines": 1, "ready": 1}}


def test_a_lost_node_of_an_engine_across_nodes_is_replaced_by_another(
    controller: tested.Controller, world: World
) -> None:
    world.span = 2
    for id_ in (A, B):
        add(world, id_)
    now = rounds(controller, 0, 4)
    kept = world.machines[A].allotted
    del world.machines[B], world.actors[B]
    now = rounds(controller, now, 3)
    assert world.machines[A].allotted == kept
    add(world, C)
    rounds(controller, now, 4)
    assert world.machines[A].allotted["m"]["0"]["nodes"] == ("10.0.0.97:8000", "10.0.0.99:8000")
    assert world.machines[C].allotted["m"]["0"]["rank"] == 1


def test_engines_across_nodes_follow_the_load_and_give_back_when_no_part_is_left(
    controller: tested.Controller, world: World
) -> None:
    world.span, world.gpus = 2, 1
    ids = [A, B, C, "d" * 56]
    for id_ in ids:
        add(world, id_)
    world.machines[A].waiting = 9
    now = rounds(controller, 0, 12)
    assert sorted(world.table) == ["shoal-shoal:m/0", "shoal-shoal:m/1"]
    assert world.machines[C].engines == {"m-1": "ready"}
    world.machines[A].waiting, world.parts_stay = 0, True
    now = rounds(controller, now, 9)
    # One is not wanted any more, but a follower is not done with it: Ray keeps its resources.
    (going,) = {"m/0", "m/1"} - {
        s["replica"] for i in ids for s in world.machines[i].allotted.get("m", {}).values()
    }
    assert len(world.table) == 2
    for id_ in ids:
        world.machines[id_].parts = {}
    rounds(controller, now, 2)
    assert f"shoal-shoal:{going}" not in world.table and len(world.table) == 1
    assert {replica for replica, _ in world.held} == {"m/0", "m/1"} - {going}


def test_without_bounds_there_are_as_many_as_the_nodes_give_and_never_none(
    controller: tested.Controller, world: World
) -> None:
    world.span, world.replicas = 2, {}
    add(world, A)
    now = rounds(controller, 0, 3)
    assert controller.status()["models"]["m"]["engines"] == len(world.table) == 1
    for id_ in (B, C, "d" * 56):
        add(world, id_)
    now = rounds(controller, now, 4)
    assert controller.status()["models"] == {"m": {"engines": 2, "ready": 2}}
    lost = world.table["shoal-shoal:m/1"][1][1]
    del world.machines[lost], world.actors[lost]
    world.stale = True  # Ray does not know yet that a group has lost a node
    now = rounds(controller, now, 1)
    world.stale = False
    rounds(controller, now, 3)
    assert list(world.table) == ["shoal-shoal:m/0"]


def test_groups_of_another_size_than_the_engines_are_to_have_go(
    controller: tested.Controller, world: World
) -> None:
    for id_ in (A, B):
        add(world, id_)
    now = rounds(controller, 0, 4)
    assert world.table["shoal-shoal:m/0"][1] == (A,)
    world.span = 2
    rounds(controller, now, 6)
    assert list(world.table) == ["shoal-shoal:m/1"]
    assert sorted(world.machines[i].allotted["m"]["1"]["rank"] for i in (A, B)) == [0, 1]
