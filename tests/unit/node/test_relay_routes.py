from pathlib import Path

from shoal.node.relay_routes import by_tcp, relay_table, through, ways
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable
from shoal.transport.messages import RelayState

HERE, THERE, BEYOND = "a:1/m-0", "b:2/m-0", "c:3/m-0"


def target(name: str, slot: int) -> EngineTarget:
    return EngineTarget(id=name, slot=slot, host="10.0.0.1", port=9, authority="x", capacity=4)


ROUTE = ModelRoute(
    model="m",
    policy="round_robin",
    engines=(target(HERE, 0), target(THERE, 1), target(BEYOND, 2), target("external/m-0", 3)),
)
TABLE = RoutingTable(version=7, routes={"m": ROUTE, "alias": ROUTE})


def known(*, all_engines: bool = False):
    return relay_table(TABLE, "a:1", Path("/s"), all_engines=all_engines)


def vias(table: RoutingTable) -> dict[str, str]:
    return {e.id: e.via for e in table.routes["alias"].engines if e.via}


def test_the_relay_knows_the_clusters_engines_and_listens_for_those_it_carries_to():
    sockets = {e.id: (e.socket, e.local, e.model) for e in known().engines}
    assert sockets == {
        HERE: ("", True, "m"),
        THERE: ("/s/r1.sock", False, "m"),
        BEYOND: ("/s/r2.sock", False, "m"),
    }
    assert all(e.socket for e in known(all_engines=True).engines)


def test_only_what_is_listened_for_and_not_away_goes_through_it():
    both = RelayState(listening=(BEYOND, THERE))
    assert vias(through(TABLE, known(), both)) == {THERE: "/s/r1.sock", BEYOND: "/s/r2.sock"}
    away = RelayState(listening=(BEYOND, THERE), away={"c:3": "silent"})
    changed = through(TABLE, known(), away)
    assert vias(changed) == {THERE: "/s/r1.sock"}
    assert changed.routes["m"] is changed.routes["alias"]
    assert changed.version == TABLE.version
    assert through(TABLE, known(), RelayState()) == TABLE
    assert through(TABLE, known(), RelayState(listening=(THERE,), trouble="no broker")) == TABLE


def test_ways_are_told_of_by_node_or_for_all():
    away = RelayState(listening=(BEYOND, THERE), away={"c:3": "silent"})
    assert ways(known(), away, per_node=True) == {"b:2": "", "c:3": "silent"}
    unknown = RelayState(listening=(BEYOND, THERE), away={"c:3": ""})
    assert ways(known(), unknown, per_node=True) == {"b:2": ""}
    assert ways(known(), RelayState(trouble="no broker"), per_node=False) == {"": "no broker"}
    assert ways(known(), RelayState(listening=(THERE,)), per_node=False) == {"": ""}
    assert ways(known(), RelayState(), per_node=False) == {}


def test_which_nodes_are_reached_by_tcp_instead():
    both = RelayState(listening=(BEYOND, THERE))
    assert by_tcp(known(), both) == {"b:2": False, "c:3": False}
    for why in ("silent", ""):
        away = RelayState(listening=(BEYOND, THERE), away={"c:3": why})
        assert by_tcp(known(), away) == {"b:2": False, "c:3": True}
    for nothing in (None, RelayState(), RelayState(listening=(BEYOND, THERE), trouble="no broker")):
        assert by_tcp(known(), nothing) == {"b:2": True, "c:3": True}
    assert by_tcp(known(all_engines=True), both) == {"a:1": True, "b:2": False, "c:3": False}
    assert (
        by_tcp(relay_table(RoutingTable(version=1, routes={}), "a:1", Path("/s"), all_engines=True), None)
        == {}
    )
