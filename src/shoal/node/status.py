"""The status document: what `shoal status` shows and `/shoal/v1/status` answers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shoal import __version__
from shoal.cluster.view import EngineReport, Member, MemberState, View, full_id
from shoal.node.events import Event
from shoal.node.tables import External


def status_document(
    view: View,
    *,
    cluster: str,
    uptime: float,
    events: Sequence[Event],
    externals: Iterable[External] = (),
    workers: Sequence[dict[str, Any]] = (),
    batches: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the status of the cluster as `view`'s node sees it; plain data, ready for JSON.

    Args:
        view: members and engines.
        cluster: the cluster's name.
        uptime: seconds since the node process started.
        events: this node's last events, oldest first.
        externals: engines somebody else runs.
        workers: one mapping per gateway worker.
        batches: one mapping per batch that this node executes.
    """
    open_ = _in_flight(view)
    return {
        "node": view.me,
        "cluster": cluster,
        "version": __version__,
        "uptime": round(uptime, 1),
        "isolated": view.isolated,
        "members": [_member(m, open_) for m in view.members],
        "external": [_engine(e.report) for e in externals],
        "workers": list(workers),
        "batches": list(batches),
        "events": [msgspec.to_builtins(e) for e in events],
    }


def _in_flight(view: View) -> Counter[str]:
    """Return the requests that gateways have open, by the engine's full id."""
    total: Counter[str] = Counter()
    for member in view.members:
        if member.report is not None and _present(member):
            total.update(member.report.in_flight)
    return total


def _member(member: Member, in_flight: Mapping[str, int]) -> dict[str, Any]:
    report = member.report
    # "left" and "dead" members' reports are history: their states are what they said last.
    return {
        "name": member.name,
        "state": _state(member),
        "age": None if member.age is None else round(member.age, 2),
        "is_self": member.is_self,
        "role": report.role if report else None,
        "covers": report.covers or None if report and _present(member) else None,
        "version": report.version if report else None,
        "config_hash": report.config_hash if report else None,
        "generation": report.generation if report else None,
        "replacing": report.replacing or None if report else None,
        "files": report.files if report else {},
        "waiting": {model: w.requests for model, w in report.waiting.items()} if report else {},
        "engines": [
            _engine(e) | {"in_flight": in_flight.get(full_id(member.name, e.id), 0)} for e in report.engines
        ]
        if report
        else [],
        "seats": [msgspec.to_builtins(s) for s in report.seats] if report else [],
    }


def _state(member: Member) -> str:
    report = member.report
    if report is None or not _present(member):
        return str(member.state)
    if report.draining:
        return "draining"
    return "drained" if report.drained and member.state is MemberState.ALIVE else str(member.state)


def _present(member: Member) -> bool:
    return member.state in (MemberState.ALIVE, MemberState.SUSPECT)


def _engine(engine: EngineReport) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(engine)
    body["since"] = round(engine.since, 1)
    return body
