"""Engines that may not start yet because the files of their model are not here: what is wanted, and what is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec

from shoal.cluster.view import EngineReport, EngineState
from shoal.engine.spec import EngineSpec
from shoal.node.reconcile import Wanted


class Held(msgspec.Struct, frozen=True):
    """Why an engine may not start, as a sentence's end, and since when: seconds on a steady clock."""

    why: str
    since: float


def startable(
    wanted: Mapping[str, Wanted],
    specs: Mapping[str, EngineSpec],
    held: Callable[[str], Held | None],
    running: Collection[str],
) -> dict[str, Wanted]:
    """Return the engines that are wanted now: those that run go on, whatever becomes of their model's files.

    Args:
        wanted: what the node is to run, by engine id.
        specs: the same with their models, but for parts of engines across nodes that nobody forms yet.
        held: tells whether a model is held.
        running: ids of the engines that run.
    """
    return {
        i: want
        for i, want in wanted.items()
        if i in running or i not in specs or held(specs[i].model) is None
    }


def held_reports(
    specs: Iterable[EngineSpec],
    held: Callable[[str], Held | None],
    reported: Collection[str],
    host: str,
    now: float,
) -> Iterator[EngineReport]:
    """Yield a report for each engine that waits for its files, so that clients and people are told how far they are.

    Args:
        specs: what the node is to run.
        held: tells whether a model is held.
        reported: ids of engines that are reported anyway.
        host: address other nodes reach the node's engines at.
        now: seconds on the same clock as `Held.since`.
    """
    for spec in specs:
        why = held(spec.model)
        if why is not None and spec.id not in reported:
            yield EngineReport(
                id=spec.id,
                model=spec.model,
                kind=spec.kind,
                state=EngineState.WAITING,
                host=host,
                since=now - why.since,
                detail=why.why,
            )
