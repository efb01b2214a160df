"""From what a node knows of the cluster to the routing table of its gateway workers. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

import msgspec

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, View, full_id
from shoal.config.schema import Config
from shoal.node.addresses import reachable
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable


class External(msgspec.Struct, frozen=True, kw_only=True):
    """An engine somebody else runs, as this node's own probes see it, and how to reach it."""

    report: EngineReport
    target: EngineTarget


# Seconds a client should wait before it asks again while no engine of its model is ready.
RETRY_AFTER = 5


# What an engine in one of these states still owes, it will not pay: it runs no more, not yet, or answers nobody.
_LOST = frozenset((EngineState.UNHEALTHY, EngineState.WAITING, EngineState.STARTING, EngineState.STOPPED))


def lost(view: View, answers: Mapping[str, bool], externals: Iterable[External]) -> Iterable[str]:
    """Yield the full ids of the engines from which nothing is to be expected, see `RoutingTable.lost`.

    Args:
        view: members and engines.
        answers: as for `routable`.
        externals: engines that somebody else runs.
    """
    for member, engine in view.engines():
        name = full_id(member.name, engine.id)
        present = member.state in (MemberState.ALIVE, MemberState.SUSPECT)
        if engine.state in _LOST or member.state is MemberState.LEFT or not answers.get(name, present):
            yield name
    for external in externals:
        if external.report.state in _LOST:
            yield external.target.id


def routable(view: View, answers: Mapping[str, bool]) -> Iterable[tuple[str, EngineReport]]:
    """Yield full id and report of every engine of a member that may get requests.

    An engine outlives its node process, so that a suspect or dead member's engines stay in use for as long as
    they answer this node's own probes (`answers`, by full id). Before the first probe a suspect member's engine is
    trusted and a dead one's is not. Engines that a standby node keeps loaded are left out until it takes over, those of
    drained and leaving nodes for good.
    """
    for member, engine in view.engines():
        if engine.standby or engine.state is not EngineState.READY or member.state is MemberState.LEFT:
            continue
        if member.report is not None and (member.report.draining or member.report.drained):
            continue
        name = full_id(member.name, engine.id)
        if member.state is MemberState.ALIVE or answers.get(name, member.state is MemberState.SUSPECT):
            yield name, engine


def routing_table(
    config: Config,
    view: View,
    *,
    version: int,
    slot: Callable[[str], int],
    answers: Mapping[str, bool],
    externals: Iterable[External] = (),
    local_host: str = "",
    model_slot: Callable[[str], int] = lambda _: 0,
    draining: bool = False,
) -> RoutingTable:
    """Return the routing table for what this node knows.

    Args:
        config: the configuration.
        view: members and engines.
        version: number of the new table.
        slot: gives each engine's column of the in-flight map by its full id.
        answers: whether the engines of members that are not alive answer this node's own probes.
        externals: engines that somebody else runs.
        local_host: address this node's own engines listen on, where it may differ from the one others use (NAT).
        model_slot: gives each model's column of the counts of what waits by its name.
        draining: this node is leaving.
    """
    externals = tuple(externals)
    engines: dict[str, list[EngineTarget]] = {m.name: [] for m in config.models}
    aliases: dict[str, set[str]] = {m.name: {m.name} for m in config.models}
    lengths: dict[str, int | None] = {}
    limits = {m.name: m.max_in_flight or config.admission.max_in_flight for m in config.models}
    weights = {n.name: n.weight for n in config.nodes}
    for name, report in routable(view, answers):
        if report.model not in engines:
            continue  # a model of a member whose file differs; the difference is reported elsewhere
        node = name.rpartition("/")[0]
        weight = report.weight * weights.get(node, 1.0)
        host = reachable(local_host) if local_host and node == view.me else report.host
        engines[report.model].append(
            EngineTarget(
                id=name,
                slot=slot(name),
                host=host,
                port=report.port,
                authority=report.authority,
                weight=weight,
                instance=report.instance,
                token_ids=report.kind != "command",
                capacity=_capacity(limits[report.model], report.capacity),
            )
        )
        for served in report.served:
            aliases[report.model].add(served)
            lengths[served] = report.max_model_len
    for external in externals:
        if external.report.state is EngineState.READY and external.report.model in engines:
            most = _capacity(limits[external.report.model], 0)
            engines[external.report.model].append(msgspec.structs.replace(external.target, capacity=most))
            lengths.setdefault(external.report.model, external.report.max_model_len)
    routes: dict[str, ModelRoute] = {}
    for model in config.models:
        targets = tuple(sorted(engines[model.name], key=lambda e: e.id))
        route = ModelRoute(
            model=model.name,
            policy=model.policy or config.routing.policy,
            engines=targets,
            max_model_len=lengths.get(model.name),
            pending="" if targets else pending(model.name, view),
            slot=model_slot(model.name),
        )
        # A configured model's own name wins over the same name served by another model's engine as an adapter.
        routes |= {alias: route for alias in sorted(aliases[model.name]) if alias not in routes}
        routes[model.name] = route
    bodies = {
        alias: _model_object(alias, route.model, lengths.get(alias))
        for alias, route in sorted(routes.items())
        if route.engines
    }
    return RoutingTable(
        version=version,
        routes=routes,
        models_body=_json({"object": "list", "data": list(bodies.values())}),
        model_bodies={alias: _json(body) for alias, body in bodies.items()},
        lost=tuple(sorted(lost(view, answers, externals))),
        retry_after=RETRY_AFTER,
        draining=draining,
    )


def _capacity(limit: int | str, own: int) -> int:
    """Return the requests that an engine gets at most, 0 for any number; `own`: by what it says itself."""
    if isinstance(limit, int):
        return limit
    return own if limit == "auto" else 0


def next_version(table: RoutingTable) -> RoutingTable:
    """Return `table` with the version after its own."""
    return msgspec.structs.replace(table, version=table.version + 1)


def pending(model: str, view: View) -> str:
    """Return the sentence that says how far the engines of a model with none ready have got."""
    known = [
        (full_id(m.name, e.id), _with_owner(e, m))
        for m, e in view.engines()
        if e.model == model and not e.standby
    ]
    if not known:
        return f"model {model} has no engine in the cluster yet"
    name, best = max(known, key=lambda item: _PROGRESS.get(item[1].state, 0))
    detail = best.detail or str(best.state)
    return f"no engine of model {model} is ready (0 of {len(known)}); {name}: {detail}, {best.since:.0f} s so far"


def _with_owner(engine: EngineReport, owner: Member) -> EngineReport:
    """Return what an engine says, or that its node is drained, where that is why it gets nothing."""
    drained = owner.report is not None and owner.report.drained and engine.state is EngineState.READY
    return msgspec.structs.replace(engine, detail="its node is drained") if drained else engine


_PROGRESS = {EngineState.STARTING: 3, EngineState.UNHEALTHY: 2, EngineState.WAITING: 1}


def _model_object(alias: str, root: str, max_model_len: int | None) -> dict[str, object]:
    """Return an entry of ``/v1/models`` in the shape vLLM gives it."""
    body: dict[str, object] = {
        "id": alias,
        "object": "model",
        "created": 0,
        "owned_by": "shoal",
        "root": root,
    }
    if max_model_len is not None:
        body["max_model_len"] = max_model_len
    return body


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
