"""What a cluster on Ray should look like next. Pure: what there is goes in, what to do comes out.

A *replica* is one engine of a model. Ray knows it as a placement group, whose name is the replica's, with a bundle for
each node that the engine spans, by rank; the node that a bundle is on runs the engine or its part, as a *seat*: the
engine's number there, its GPUs, and, for one that spans nodes, who the others are. They form it as they do without Ray.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import msgspec

from shoal.node.allotment import Allotted, Seat


class RayNode(msgspec.Struct, frozen=True, kw_only=True):
    """A live node of the Ray cluster.

    Attributes:
        id: Ray's own.
        address: numeric address.
        gpus: that it has, as Ray counts them.
        head: Ray's head runs on it.
    """

    id: str
    address: str
    gpus: float = 0.0
    head: bool = False


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A placement group that holds the resources of one replica.

    Attributes:
        replica: its name, ``model/number`` or, bound to a node, ``model@node/number``.
        nodes: Ray's ids of the nodes it is on, by rank; "" where there is no room yet.
        gpus: indices of its GPUs on each of them; None while they are not known.
    """

    replica: str
    nodes: tuple[str, ...] = ("",)
    gpus: tuple[tuple[int, ...], ...] | None = ((),)

    @property
    def model(self) -> str:
        """The model's name."""
        return model_of(self.replica)

    @property
    def placed(self) -> bool:
        """Whether there is room for all of it."""
        return all(self.nodes)


class EngineNow(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as its node tells of it."""

    id: str
    model: str
    state: str
    running: int = 0
    waiting: int = 0
    capacity: int = 0


_REPLICA = re.compile(
    r"(?P<model>.*?)(?:@(?P<home>[0-9a-f]{56}))?/(?P<number>\d+)", re.DOTALL
)  # Ray's ids of nodes have 28 bytes


def model_of(replica: str) -> str:
    """Return the model of a replica by its name."""
    found = _REPLICA.fullmatch(replica)
    return found["model"] if found else ""


def home_of(replica: str) -> str:
    """Return Ray's id of the node that a replica is bound to, "" for one that may be anywhere."""
    found = _REPLICA.fullmatch(replica)
    return found["home"] or "" if found else ""


def as_many_as_fit(each: int, span: int, nodes: int) -> int:
    """Return how many engines that span nodes there should be where nobody says it: at least one is waited for.

    Args:
        each: engines over the same nodes.
        span: nodes of each engine.
        nodes: that there are.
    """
    return each * max(1, nodes // span)


def floating(model: str, count: int, present: Collection[str], going: Collection[str]) -> list[str]:
    """Return the names of replicas to make so that there are `count`.

    Args:
        model: their model.
        count: how many there should be.
        present: names of all replicas.
        going: those of them that are about to go.
    """
    mine = [r for r in present if model_of(r) == model and r not in going]
    numbers = (n for n in range(len(present) + count) if f"{model}/{n}" not in present)
    return [f"{model}/{next(numbers)}" for _ in range(max(0, count - len(mine)))]


def bound(model: str, each: int, nodes: Iterable[RayNode]) -> dict[str, str]:
    """Return the names of the replicas of a model that each node has its own of, with Ray's ids of these."""
    return {f"{model}@{node.id}/{n}": node.id for node in nodes for n in range(each)}


def surplus(
    model: str,
    count: int,
    groups: Iterable[Group],
    going: Collection[str],
    engines: Mapping[str, EngineNow],
) -> list[str]:
    """Return the replicas that should go so that `count` are left: those first that are missed least.

    Args:
        model: their model.
        count: how many should stay.
        groups: all replicas.
        going: those that are about to go already.
        engines: their engines by replica, as far as there are any.
    """
    mine = [g for g in groups if g.model == model and g.replica not in going]

    def worth(group: Group) -> tuple[bool, bool, int, str]:
        engine = engines.get(group.replica)
        ready = engine is not None and engine.state == "ready"
        return group.placed, ready, engine.running + engine.waiting if engine else 0, group.replica

    return [g.replica for g in sorted(mine, key=worth)[: max(0, len(mine) - count)]]


def seats(
    groups: Iterable[Group],
    going: Collection[str],
    before: Mapping[str, Allotted],
    names: Mapping[str, str],
) -> dict[str, Allotted]:
    """Return what each node should run, by Ray's id of it; nodes that run nothing are left out.

    An engine keeps its seat for as long as its replica is on that node.

    Args:
        groups: all replicas.
        going: those whose engines should stop.
        before: what the nodes run now.
        names: the nodes' names in the Shoal cluster, of those that have one.
    """
    wanted: dict[str, Allotted] = {}
    open_ = []
    for group in (g for g in groups if g.replica not in going):
        if len(group.nodes) > 1:
            for node, seat in _across(group, before, names).items():
                wanted.setdefault(node, {}).setdefault(group.model, {})[_number_of(group.replica)] = seat
            continue
        (node,) = group.nodes
        mine = before.get(node, {}).get(group.model, {})
        number = next((n for n, seat in mine.items() if seat.replica == group.replica), None)
        if node and number is not None:
            seat = mine[number] if group.gpus is None else Seat(group.replica, group.gpus[0])
            wanted.setdefault(node, {}).setdefault(group.model, {})[number] = seat
        elif node and group.gpus is not None:
            open_.append((group.replica, node, group.gpus[0]))
    for replica, node, gpus in sorted(open_):
        model = model_of(replica)
        mine = wanted.setdefault(node, {}).setdefault(model, {})
        # Not the number of one that is about to stop either: it would go on, in another's name.
        taken = mine.keys() | before.get(node, {}).get(model, {}).keys()
        mine[next(n for n in range(len(taken) + 1) if n not in taken)] = Seat(replica, gpus)
    return wanted


def _across(group: Group, before: Mapping[str, Allotted], names: Mapping[str, str]) -> dict[str, Seat]:
    """Return the seats of an engine that spans nodes, by Ray's id of the node.

    All of them or none: before it has all its nodes, what it had stays as it was. Whoever is left of it has ended it
    when one was lost, without being told, and waits. The engine's number is the replica's, the same on all nodes.
    """
    number = _number_of(group.replica)
    there = {
        node: seats[number]
        for node, models in before.items()
        if number in (seats := models.get(group.model, {}))
    }
    known = group.placed and group.gpus is not None and all(node in names for node in group.nodes)
    taken = any(node in there and there[node].replica != group.replica for node in group.nodes)
    if not known or taken:
        return {node: seat for node, seat in there.items() if seat.replica == group.replica}
    assert group.gpus is not None
    nodes = tuple(names[node] for node in group.nodes)
    return {
        node: Seat(group.replica, gpus, nodes, rank)
        for rank, (node, gpus) in enumerate(zip(group.nodes, group.gpus, strict=True))
    }


def _number_of(replica: str) -> int:
    """Return the number in a replica's name."""
    found = _REPLICA.fullmatch(replica)
    assert found is not None
    return int(found["number"])


def port_of(address: str, first: int, taken: Collection[str], kept: Collection[tuple[int, int]]) -> int:
    """Return the port of a new node: the same one everywhere, unless another node has it on that address.

    Args:
        address: the node's.
        first: port of the file.
        taken: names (``host:port``) of nodes.
        kept: ranges of ports, ends included, that nodes may not have.
    """
    port = first
    while f"{address}:{port}" in taken or any(low <= port <= high for low, high in kept):
        port += 1
    return port


def versions_problem(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Return why a node with other versions cannot take part, None if it can.

    Args:
        mine: versions of ``ray``, ``python`` and ``shoal`` at the controller.
        theirs: those on the node.
    """
    for what, name in (("ray", "Ray"), ("python", "Python"), ("shoal", "Shoal")):
        here, there = mine[what], theirs.get(what, "none")
        if what == "python":  # what is pickled holds for a minor version
            here, there = (".".join(v.split(".")[:2]) for v in (here, there))
        if here != there:
            return f"it has {name} {there}, the controller {here}: install the same on all of Ray's nodes"
    return None
