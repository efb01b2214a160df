"""The status document: what `shoal status` shows and `/shoal/v1/status` answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shoal import __version__
from shoal.cluster.view import EngineReport, Member, MemberState, View
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
) -> dict[str, Any]:
    """Return the status of the cluster as `view`'s node sees it; plain data, ready for JSON.

    Args:
        view: members and engines.
        cluster: the cluster's name.
        uptime: seconds since the node process started.
        events: this node's last events, oldest first.
        externals: engines somebody else runs.
        workers: one mapping per gateway worker.
    """
    return {
        "node": view.me,
        "cluster": cluster,
        "version": __version__,
        "uptime": round(uptime, 1),
        "isolated": view.isolated,
        "members": [_member(m) for m in view.members],
        "external": [_engine(e.report) for e in externals],
        "workers": list(workers),
        "events": [msgspec.to_builtins(e) for e in events],
    }


def _member(member: Member) -> dict[str, Any]:
    report = member.report
    # "left" and "dead" members' reports are history: their states are what they said last.
    return {
        "name": member.name,
        "state": "draining" if report and report.draining and _present(member) else str(member.state),
        "age": None if member.age is None else round(member.age, 2),
        "is_self": member.is_self,
        "role": report.role if report else None,
        "covers": report.covers or None if report and _present(member) else None,
        "version": report.version if report else None,
        "config_hash": report.config_hash if report else None,
        "waiting": {model: w.requests for model, w in report.waiting.items()} if report else {},
        "engines": [_engine(e) for e in report.engines] if report else [],
    }


def _present(member: Member) -> bool:
    return member.state in (MemberState.ALIVE, MemberState.SUSPECT)


def _engine(engine: EngineReport) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(engine)
    body["since"] = round(engine.since, 1)
    return body
