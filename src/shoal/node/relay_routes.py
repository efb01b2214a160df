"""From the routing table to what the relay knows, and back: which engines are reached through it. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable
from shoal.transport.messages import RelayEngine, RelayState, RelayTable

_EXTERNAL = "external/"


def relay_table(table: RoutingTable, me: str, directory: Path, *, all_engines: bool) -> RelayTable:
    """Return the engines of the cluster's own that a routing table has, as the relay needs to know them.

    Args:
        table: the routing table.
        me: name of this node.
        directory: of the sockets.
        all_engines: requests for this node's own engines go through the carrier too.
    """
    found: dict[str, RelayEngine] = {}
    for route in table.routes.values():
        for target in route.engines:
            if target.id.startswith(_EXTERNAL):
                continue
            local = target.id.rpartition("/")[0] == me
            found[target.id] = RelayEngine(
                id=target.id,
                model=route.model,
                host=target.host,
                port=target.port,
                authority=target.authority,
                capacity=target.capacity,
                local=local,
                socket=str(directory / f"r{target.slot}.sock") if all_engines or not local else "",
            )
    return RelayTable(tuple(found[name] for name in sorted(found)))


def through(table: RoutingTable, known: RelayTable, state: RelayState) -> RoutingTable:
    """Return `table` with the relay's sockets for the engines it leads to now.

    Args:
        table: the routing table.
        known: what the relay was told last.
        state: what it can do.
    """
    if state.trouble or not state.listening:
        return table
    sockets = {e.id: e.socket for e in _carried(known, state)}
    changed: dict[int, ModelRoute] = {}  # routes that several names share stay shared
    for route in table.routes.values():
        if id(route) not in changed:
            engines = tuple(_via(target, sockets.get(target.id, "")) for target in route.engines)
            changed[id(route)] = msgspec.structs.replace(route, engines=engines)
    routes = {name: changed[id(route)] for name, route in table.routes.items()}
    return msgspec.structs.replace(table, routes=routes)


def by_tcp(known: RelayTable, state: RelayState | None) -> dict[str, bool]:
    """Return of each node with engines for which there should be a socket whether requests to any go by tcp instead.

    Args:
        known: what the relay was told last.
        state: what it can do, None while there is no relay.
    """
    carried = {e.id for e in _carried(known, state)} if state is not None and not state.trouble else set()
    told: dict[str, bool] = {}
    for engine in known.engines:
        if engine.socket:
            told[engine.node] = told.get(engine.node, False) or engine.id not in carried
    return told


def _carried(known: RelayTable, state: RelayState) -> list[RelayEngine]:
    """Return the engines for which the relay takes requests and to whose nodes it gets."""
    listening = frozenset(state.listening)
    return [e for e in known.engines if e.id in listening and e.node not in state.away]


def ways(known: RelayTable, state: RelayState, *, per_node: bool) -> dict[str, str]:
    """Return why requests go by tcp and not through the relay, "" where they do: by node, or under "" for all.

    Args:
        known: what the relay was told last.
        state: what it can do.
        per_node: it may reach some nodes and not others.
    """
    if not per_node:
        return {"": state.trouble} if state.trouble or state.listening else {}
    if state.trouble:
        return dict.fromkeys({e.node for e in known.engines if not e.local}, state.trouble)
    nodes = {e.node for e in known.engines if e.id in state.listening}
    # What is not known yet, "", is not told of.
    return {n: state.away.get(n, "") for n in sorted(nodes) if state.away.get(n) != ""}


def _via(target: EngineTarget, socket: str) -> EngineTarget:
    return msgspec.structs.replace(target, via=socket) if socket else target
