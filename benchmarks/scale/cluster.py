"""Nodes that exist for a measurement only: their names, what they say of themselves, and their settings."""

from __future__ import annotations

from shoal.cluster.detector import Timers
from shoal.cluster.membership import MembershipSettings
from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View, full_id
from shoal.config import Config
from shoal.config.shared import validated

SECRET = "a secret of the benchmark"
MODEL = "model"
ENGINE = "model-0"
HOST = "127.0.0.1"


def names(ports: list[int]) -> list[str]:
    """Return the names of nodes at these ports."""
    return [f"{HOST}:{port}" for port in ports]


def engine(number: int) -> EngineReport:
    """Return the report of a node's one engine, with what a real one has in it."""
    return EngineReport(
        id=ENGINE,
        model=MODEL,
        kind="vllm",
        state=EngineState.READY,
        host=HOST,
        port=20000 + number % 20000,
        instance=f"{number:08x}",
        served=(MODEL,),
        max_model_len=32768,
        running=17,
        waiting=3,
        kv_usage=0.4217,
        since=1234.5,
        detail="ready after 93 s",
        authority="5f2c8d1e9a7b4c3d",
        capacity=256,
    )


def report(name: str, number: int, everybody: list[str], busy: bool) -> NodeReport:
    """Return what a node says of itself; a busy one's gateways have requests at all engines."""
    return NodeReport(
        name=name,
        version="0.1.0",
        config_hash="0123456789abcdef",
        agreed="0123456789abcdef",
        link=30000,
        link_authority="5f2c8d1e9a7b4c3d",
        engines=(engine(number),),
        in_flight=in_flight(everybody) if busy else {},
    )


def in_flight(everybody: list[str]) -> dict[str, int]:
    """Return the open requests of a busy node's gateways at each engine."""
    return {full_id(name, ENGINE): 5 + i % 90 for i, name in enumerate(everybody)}


def settings(name: str, everybody: list[str]) -> MembershipSettings:
    """Return a node's settings: the defaults of a cluster with a secret."""
    peers = tuple((HOST, int(other.rpartition(":")[2])) for other in everybody)
    return MembershipSettings(
        name=name,
        bind=HOST,
        port=int(name.rpartition(":")[2]),
        peers=peers,
        secret=SECRET,
        timers=Timers(),
    )


def configuration(everybody: list[str]) -> Config:
    """Return the configuration of the cluster."""
    nodes = [{"host": HOST, "port": int(name.rpartition(":")[2])} for name in everybody]
    return validated(
        {"nodes": nodes, "model": {"path": MODEL, "engine": "sim"}, "cluster": {"secret": SECRET}}
    )


def view(everybody: list[str]) -> View:
    """Return the view of the first node when all others live."""
    members = tuple(
        Member(
            name=name,
            state=MemberState.ALIVE,
            age=0.1,
            report=report(name, i, everybody, busy=False),
            is_self=i == 0,
        )
        for i, name in enumerate(sorted(everybody))
    )
    return View(me=members[0].name, members=members)
