"""What a controller tells a node to run, and asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View, Waiting
from shoal.config import Config
from shoal.engine.gpu import Gpu
from shoal.gateway.counters import NO_MODEL, SharedMetrics, create
from shoal.node import allotment
from shoal.node.allotment import ALLOTMENT, FORGET, Allotment, Allotted, Seat, gpus_asked, placements
from shoal.node.duty import Duty
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.orders import RefusedError
from support.configs import config

TEXT = """
nodes: [{host: 127.0.0.1, port: 8000}]
models: [{name: a/b, path: m, engine: sim, replicas: {max: 3}}, {name: n, path: n, engine: sim}]
cluster: {substrate: ray}
state_dir: %s
"""


class Node:
    """The allotment of a node, with what is around it."""

    def __init__(self, directory: Path, substrate: str = "ray") -> None:
        self.config: Config = config((TEXT % directory).replace("substrate: ray", f"substrate: {substrate}"))
        self.events = Events()
        self.busy = False
        self.changes: list[Allotted] = []
        self.forgotten: list[str] = []
        engine = EngineReport(
            id="n-0",
            model="n",
            kind="sim",
            state=EngineState.READY,
            host="x",
            running=2,
            waiting=1,
            capacity=8,
        )
        me = NodeReport(
            name="me:1", version="1", engines=(engine,), waiting={"n": Waiting(5, 1)}, generation=3
        )
        states = {"gone:1": MemberState.DEAD, "there:1": MemberState.ALIVE}
        members = [Member(name="me:1", state=MemberState.ALIVE, report=me, is_self=True)]
        members += [Member(name=name, state=state) for name, state in states.items()]
        metrics = SharedMetrics(create(1), 1)
        self.tested = Allotment(
            "me:1",
            directory,
            config=lambda: self.config,
            view=lambda: View(me="me:1", members=tuple(members)),
            outcomes=lambda: (
                ("n", "me:1/n-0", metrics.outcome(NO_MODEL)),
                ("", "", metrics.outcome(NO_MODEL)),
            ),
            events=self.events,
            busy=lambda: self.busy,
            on_change=self.changes.append,
            forget=self.forgotten.append,
        )

    def ask(self, method: str, path: str, arguments: Mapping[str, Any] | None = None) -> Any:
        return asyncio.run(self.tested.handlers()[method, path](arguments or {}))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_what_is_allotted_holds_is_told_once_and_survives_a_restart(node: Node, tmp_path: Path) -> None:
    wanted = {"a/b": {"0": {"replica": "a/b/4", "gpus": [1]}, "2": {"replica": "a/b/1"}}}
    for _ in range(2):
        assert node.ask("POST", ALLOTMENT, {"engines": wanted, "say": ["it is so"]}) == {}
    expected = {"a/b": {0: Seat("a/b/4", (1,)), 2: Seat("a/b/1")}}
    assert node.changes == [expected]
    assert allotment.read(tmp_path) == expected
    assert [e.text for e in node.events.last()] == ["it is so"] * 2


@pytest.mark.parametrize(
    "engines", [None, [], {"m": {"x": {"replica": "r"}}}, {"m": {"0": {}}}, {"m": {"0": 1}}]
)
def test_nonsense_is_refused(node: Node, engines: Any) -> None:
    with pytest.raises(RefusedError, match="that is no allotment"):
        node.ask("POST", ALLOTMENT, {"engines": engines})
    assert node.changes == []


def test_it_waits_for_a_configuration_that_is_being_applied(node: Node) -> None:
    node.busy = True
    with pytest.raises(RefusedError, match="another configuration is being applied"):
        node.ask("POST", ALLOTMENT, {"engines": {"n": {"0": {"replica": "n/0"}}}})


def test_a_node_tells_what_the_controller_needs(node: Node) -> None:
    told = node.ask("GET", ALLOTMENT)
    assert (told["node"], told["generation"], told["waiting"]) == ("me:1", 3, {"n": 5})
    assert [m["name"] for m in told["models"]] == ["a/b", "n"]
    assert told["models"][0]["replicas"]["max"] == 3
    assert told["engines"] == [
        {"id": "n-0", "model": "n", "state": "ready", "running": 2, "waiting": 1, "capacity": 8}
    ]
    assert told["members"] == {"me:1": "alive", "gone:1": "dead", "there:1": "alive"}
    assert list(told["first"]) == ["n"]


def test_only_who_is_lost_can_be_forgotten(node: Node) -> None:
    for name in ("gone:1", "unheard-of:1"):
        node.ask("POST", FORGET, {"node": name})
    assert node.forgotten == ["gone:1"]
    with pytest.raises(RefusedError, match="there:1 is alive: it can be told to leave"):
        node.ask("POST", FORGET, {"node": "there:1"})


def test_elsewhere_nobody_may_give_such_orders(tmp_path: Path) -> None:
    assert Node(tmp_path, "builtin").tested.handlers() == {}


def test_engines_are_those_of_the_allotment(node: Node) -> None:
    allotted = {"a/b": {1: Seat("a/b/0", (3,))}, "unknown": {0: Seat("u/0")}}
    gpus = [Gpu(index=i, uuid=str(i), name="G", total=80 << 30, free=80 << 30) for i in (0, 3)]
    (placed,) = placements(node.config, node.config.models, allotted, gpus)
    assert (placed.id, placed.gpus, placed.why) == ("a-b-1", (3,), "allotted as a/b/0")
    with pytest.raises(
        StartError, match="Ray gave engine a-b-1 GPU 3, which this machine does not have: it has none"
    ):
        placements(node.config, node.config.models, allotted, [])


SPANS = """
nodes: [{host: 127.0.0.1, port: 8000}]
model: {name: m, path: m, engine: sim, nodes_per_engine: 2%s}
cluster: {substrate: ray}
state_dir: %s
"""
PAIR = ("127.0.0.1:8000", "127.0.0.2:8000")


def test_a_part_of_an_engine_across_nodes_is_the_same_as_without_ray(tmp_path: Path) -> None:
    on_ray = config(SPANS % (", tensor_parallel: 2", tmp_path))
    duty = Duty(on_ray, on_ray.nodes[0], (), "127.0.0.1")
    duty.allot(
        {"m": {4: Seat("m/4", (), PAIR, 1), 5: Seat("m/5")}}
    )  # the second is from when it did not span nodes
    duty.configure(on_ray)
    assert (duty.specs, list(duty.parts)) == ({}, ["m-4"])
    place = duty.parts["m-4"].place
    assert (place.group, place.nodes, place.rank) == ("127.0.0.1:8000/m-4", PAIR, 1)
    assert place.traits["the split"] == "tensor parallel 2, pipeline parallel 1"
    nodes = ", ".join(f"{{host: {name.partition(':')[0]}, port: 8000}}" for name in PAIR)
    text = f"nodes: [{nodes}]\nmodel: {{name: m, path: m, engine: sim, type: xlarge, tensor_parallel: 2}}\n"
    own = config(text + f"state_dir: {tmp_path / 'own'}\n")
    (other,) = Duty(own, own.nodes[1], (), "127.0.0.1").parts.values()
    assert (other.place.traits, other.spec.args) == (place.traits, duty.parts["m-4"].spec.args)


def test_a_part_has_the_gpus_that_ray_gave_it(tmp_path: Path) -> None:
    on_ray = config(SPANS % (", gpus_per_engine: 2", tmp_path))
    gpus = [Gpu(index=i, uuid=str(i), name="G", total=80 << 30, free=80 << 30) for i in range(4)]
    (placed,) = placements(on_ray, on_ray.models, {"m": {0: Seat("m/0", (1, 3), PAIR, 0)}}, gpus)
    assert (placed.gpus, str(placed.split)) == ((1, 3), "tensor parallel 2, pipeline parallel 2")


def test_engines_that_do_not_divide_over_their_nodes_are_refused_before_anything_is_allotted(
    tmp_path: Path,
) -> None:
    on_ray = config(SPANS % (", tensor_parallel: 3, pipeline_parallel: 1", tmp_path))
    with pytest.raises(StartError, match="make 3 ranks, which do not divide over 2 nodes"):
        placements(on_ray, on_ray.models, {}, [])


def test_a_node_on_ray_runs_nothing_by_itself(node: Node, tmp_path: Path) -> None:
    duty = Duty(node.config, node.config.nodes[0], (), "127.0.0.1")
    assert duty.specs == {}
    duty.allot({"n": {1: Seat("n/0")}})
    duty.configure(node.config)
    assert list(duty.specs) == ["n-1"]


def test_gpus_of_an_engine() -> None:
    models = config(
        """
        nodes: [{host: 127.0.0.1}]
        models:
          - {path: a}
          - {path: b, gpus_per_engine: 0}
          - {path: c, tensor_parallel: 2, pipeline_parallel: 2}
        """
    ).models
    assert [gpus_asked(m) for m in models] == [None, 0, 4]
    # Of one across nodes, on each of them.
    assert [gpus_asked(m, 2) for m in models] == [None, 0, 2]


@pytest.mark.parametrize(
    ("settings", "each"),
    [("tensor_parallel: 8", 8), ("pipeline_parallel: 4", 2), ("args: {data_parallel_size: 16}", 8)],
)
def test_gpus_on_each_node_of_an_engine_across_two(settings: str, each: int) -> None:
    (model,) = config(f"nodes: [{{host: 127.0.0.1}}]\nmodel: {{path: a, {settings}}}").models
    assert gpus_asked(model, 2) == each
