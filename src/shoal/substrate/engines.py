"""The engines of a cluster on Ray: how many there are, where, and the resources that Ray holds for them.

A part of the controller. It keeps nothing that it could not find again: placement groups are in Ray's books, and what
runs where is what the nodes say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from shoal.config.replicas import Replicas
from shoal.gateway.outcomes import FIRST_EVENT
from shoal.node.allotment import Allotted
from shoal.substrate import plan, scale
from shoal.substrate.plan import EngineNow, Group, RayNode
from shoal.substrate.ray_api import Holder, Ray

REPORT_TIMEOUT: Final = 3.0
"""Seconds that nodes have to say how they are."""

_TTFT_WINDOW: Final = 30.0  # s
_TTFT_SHARE: Final = 0.9


class ModelNow(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the nodes have it in their configuration."""

    name: str
    replicas: dict[str, Any]
    engines_per_node: int
    span: int
    gpus: int | None
    kind: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says; see `shoal.node.allotment`."""

    node: str
    generation: int
    models: list[ModelNow]
    release_after: float
    allotted: dict[str, dict[str, Any]]
    engines: list[EngineNow]
    parts: list[EngineNow]
    waiting: dict[str, int]
    first: dict[str, list[int]]
    members: dict[str, str]

    def seats(self) -> Allotted:
        """Return what the node was allotted."""
        return msgspec.json.decode(msgspec.json.encode(self.allotted), type=Allotted)

    def runs(self, model: str, number: int) -> bool:
        """Return whether the node has an engine, or a part of one, that has not gone yet."""
        suffix = str(number)
        found = (*self.engines, *self.parts)
        return any(e.model == model and e.id.rpartition("-")[2] == suffix for e in found)


class Engines:
    """Keeps as many engines of each model as there should be.

    Args:
        ray: the connection to Ray.
        prefix: begins the names of this cluster's placement groups.

    Attributes:
        models: of each model how many ``engines`` there should be, and how many are ``ready``.
        news: sentences that a node is to have among its events.
    """

    def __init__(self, ray: Ray, prefix: str) -> None:
        self._ray = ray
        self._prefix = prefix
        self._nodes: list[RayNode] = []
        self._said: Mapping[str, Said] = {}
        self._scales: dict[str, scale.Scale] = {}
        self._going: dict[str, dict[str, int]] = {}  # replica -> the engine's number on each of Ray's nodes
        self._gpus: dict[tuple[str, int, str], tuple[int, ...]] = {}
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._first: dict[str, deque[tuple[float, list[int]]]] = {}
        self.models: dict[str, dict[str, int]] = {}
        self.news: list[str] = []

    def placed(self) -> set[str]:
        """Return Ray's ids of the nodes that have resources of an engine."""
        found = self._ray.groups().items()
        return {node for name, (_, nodes) in found if name.startswith(self._prefix) for node in nodes if node}

    def step(
        self, nodes: list[RayNode], said: Mapping[str, Said], runners: Mapping[str, Any], now: float
    ) -> dict[str, str]:
        """Go on; return by node why it does not do what it was told, "" for those that do.

        Args:
            nodes: Ray's live nodes.
            said: what Shoal's nodes say, by Ray's id.
            runners: the actors there, likewise.
            now: seconds on a steady clock.
        """
        self._nodes, self._said = nodes, said
        groups = self._groups()
        self._size(groups, now)
        problems = self._allot(groups, runners)
        self._give_back()
        return problems

    def _groups(self) -> list[Group]:
        """Return the placement groups of this cluster's replicas."""
        prefix, live = self._prefix, {node.id for node in self._nodes}
        found = []
        for name, (id_, placed) in sorted(self._ray.groups().items()):
            if name.startswith(prefix):
                replica = name.removeprefix(prefix)
                # Ray's books of nodes and of groups do not change at the same moment.
                nodes = tuple(node if node in live else "" for node in placed)
                found.append(Group(replica=replica, nodes=nodes, gpus=self._gpus_of(replica, id_, nodes)))
        return found

    def _gpus_of(
        self, replica: str, group: str, nodes: tuple[str, ...]
    ) -> tuple[tuple[int, ...], ...] | None:
        """Return the GPUs that Ray gave a replica on each of its nodes, None while that is not known."""
        count = self._asked_gpus(plan.model_of(replica))
        if not count:
            return ((),) * len(nodes)
        if not all(nodes):
            return None
        places = [(replica, rank, node) for rank, node in enumerate(nodes)]
        calls = {
            str(rank): self._ray.holder(Holder, group, replica, rank, count).gpus.remote()
            for _, rank, node in places
            if (replica, rank, node) not in self._gpus
        }
        for rank, answer in self._ray.ask(calls, REPORT_TIMEOUT).items():
            self._gpus[places[int(rank)]] = tuple(answer)
        found = [self._gpus[place] for place in places if place in self._gpus]
        return tuple(found) if len(found) == len(nodes) else None

    def _asked_gpus(self, model: str) -> int:
        """Return how many GPUs an engine of a model gets on each of its nodes."""
        known = next((m for m in newest(self._said.values()).models if m.name == model), None)
        if known is None:
            return 0
        if known.gpus is not None:
            return known.gpus
        return int(known.kind == "vllm" and any(node.gpus for node in self._nodes))

    def _size(self, groups: list[Group], now: float) -> None:
        """Make placement groups for engines that are missing, and note those that are to go."""
        models = newest(self._said.values()).models
        self._going = {r: at for r, at in self._going.items() if any(g.replica == r for g in groups)}
        self._let_go(g.replica for g in groups if g.model not in {m.name for m in models})
        self.models = {model.name: self._size_one(model, groups, now) for model in models}

    def _size_one(self, model: ModelNow, groups: list[Group], now: float) -> dict[str, int]:
        """Do so for one model; return how many engines there should be, and how many are ready."""
        settings = Replicas.model_validate(model.replicas)
        present = {g.replica for g in groups}
        self._let_go(g.replica for g in groups if g.model == model.name and len(g.nodes) != model.span)
        mine = [g.replica for g in groups if g.model == model.name and g.replica not in self._going]
        if settings.bounds is None and model.span == 1:
            wanted = plan.bound(model.name, model.engines_per_node, self._nodes)
            count = len(wanted)
            self._let_go(replica for replica in mine if replica not in wanted)
        else:
            self._let_go(replica for replica in mine if plan.home_of(replica))
            loose = sum(not plan.home_of(replica) for replica in mine)
            able = sum(node.gpus >= self._asked_gpus(model.name) for node in self._nodes)
            count = (
                plan.as_many_as_fit(model.engines_per_node, model.span, able)
                if settings.bounds is None
                else self._scale(model.name, settings, loose, self._demand(model.name, now), now)
            )
            wanted = dict.fromkeys(plan.floating(model.name, count, present, self._going), "")
            self._let_go(plan.surplus(model.name, count, groups, self._going, self._engines()))
        for name in wanted:
            if name not in present:
                gpus = self._asked_gpus(model.name)
                self._ray.make_group(
                    self._prefix + name, settings.cpus, gpus, span=model.span, node=wanted[name]
                )
        engines = [e for one in self._said.values() for e in one.engines if e.model == model.name]
        return {"engines": count, "ready": sum(e.state == "ready" for e in engines)}

    def _scale(self, model: str, settings: Replicas, found: int, demand: scale.Demand, now: float) -> int:
        """Return how many engines a model should have now."""
        bounds = settings.bounds
        assert bounds is not None
        before = self._scales.get(model) or scale.start(bounds, found)
        after, why = scale.step(before, settings, demand, now)
        self._scales[model] = after
        if why:
            self.news.append(f"model {model}: {before.engines} -> {after.engines} engines: {why}")
        return after.engines

    def _demand(self, model: str, now: float) -> scale.Demand:
        engines = [e for one in self._said.values() for e in one.engines if e.model == model]
        ready = [e for e in engines if e.state == "ready"]
        return scale.Demand(
            ready=len(ready),
            waiting=sum(one.waiting.get(model, 0) for one in self._said.values())
            + sum(e.waiting for e in ready),
            running=sum(e.running for e in ready),
            capacity=min((e.capacity for e in ready), default=0),
            ttft=self._ttft(model, now),
        )

    def _ttft(self, model: str, now: float) -> float | None:
        """Return the seconds within which nine of ten streams had their first token, in the last half minute."""
        fresh = [0] * (len(FIRST_EVENT) + 1)
        for one in self._said.values():
            counts = one.first.get(model)
            if counts is None:
                continue
            before = self._counts.get((one.node, model), counts)
            self._counts[one.node, model] = counts
            if sum(counts) >= sum(before):  # else the node was started again
                fresh = [f + max(0, c - b) for f, c, b in zip(fresh, counts, before, strict=True)]
        kept = self._first.setdefault(model, deque())
        kept.append((now, fresh))
        while now - kept[0][0] > _TTFT_WINDOW:
            kept.popleft()
        total = tuple(map(sum, zip(*(counts for _, counts in kept), strict=True)))
        return scale.quantile(FIRST_EVENT, total, _TTFT_SHARE)

    def _engines(self) -> dict[str, EngineNow]:
        """Return the engines of replicas by name of the replica; of one that spans nodes its leader tells."""
        found = {}
        for one in self._said.values():
            by_seat = {(e.model, e.id.rpartition("-")[2]): e for e in one.engines}
            for model, seats in one.allotted.items():
                for number, seat in seats.items():
                    if (engine := by_seat.get((model, str(number)))) is not None:
                        found[seat["replica"]] = engine
        return found

    def _let_go(self, replicas: Iterable[str]) -> None:
        """Note that replicas are to go: their engines finish first, then their resources are given back."""
        homes: dict[str, dict[str, int]] = {}
        for id_, one in self._said.items():
            for seats in one.seats().values():
                for number, seat in seats.items():
                    homes.setdefault(seat.replica, {})[id_] = number
        for replica in replicas:
            self._going.setdefault(replica, homes.get(replica, {}))

    def _allot(self, groups: list[Group], runners: Mapping[str, Any]) -> dict[str, str]:
        """Tell each node what it should run, where that is not what it was told last."""
        before = {id_: one.seats() for id_, one in self._said.items()}
        names = {id_: one.node for id_, one in self._said.items()}
        wanted = plan.seats(groups, self._going, before, names)
        calls = {}
        for id_ in self._said:
            mine = wanted.get(id_, {})
            if mine != before[id_] or self.news:
                engines = msgspec.to_builtins(mine, str_keys=True)
                calls[id_] = runners[id_].allot.remote(engines, self.news)
                self.news = []
        return self._ray.ask(calls)

    def _give_back(self) -> None:
        """Give the resources of engines that have stopped back to Ray."""
        groups, live = self._ray.groups(), {node.id for node in self._nodes}
        for replica, places in list(self._going.items()):
            if any(self._has(node, replica, number) for node, number in places.items() if node in live):
                continue
            if (found := groups.get(self._prefix + replica)) is not None:
                self._ray.give_back(found[0], replica, len(found[1]))
            self._gpus = {place: gpus for place, gpus in self._gpus.items() if place[0] != replica}
            del self._going[replica]

    def _has(self, node: str, replica: str, number: int) -> bool:
        """Return whether a node is still to run a replica, or its engine has not gone yet; not known counts as yes."""
        said = self._said.get(node)
        if said is None:
            return True
        seated = any(seat.replica == replica for seats in said.seats().values() for seat in seats.values())
        return seated or said.runs(plan.model_of(replica), number)


def newest(said: Iterable[Said]) -> Said:
    """Return what the node says that knows the newest configuration: one that has just joined may know an older one."""
    return max(said, key=lambda one: one.generation)
