"""What `shoal.cluster.group` is told: a part of an engine that spans nodes, and what there is of it on this node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A part in a group that a node is to take.

    Attributes:
        engine: id of the engine, the same on all nodes of the group.
        group: the group's name.
        model: the model's name in the configuration.
        nodes: the nodes that the file gives the group, by rank; another one may stand in for each.
        rank: which of them this place is.
        traits: what must be equal on all members, by name.
    """

    engine: str
    group: str
    model: str
    nodes: tuple[str, ...]
    rank: int
    traits: Mapping[str, str] = {}


class Meeting(msgspec.Struct, frozen=True):
    """Where the processes of the next generation could meet: an address of this node, and ports held for that."""

    host: str
    port: int
    rpc_port: int = 0


class Here(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of the engine on this node now.

    Attributes:
        running: generation of the process that runs here or is being started; 0 without one.
        exit: how it ended or why it is being ended, if it did not go on request ("exited with code 0"), else None.
        ready: the engine answers requests here; False on followers.
        changed: it runs, but with another configuration than it should.
        leaving: this node is about to stop.
        unwanted: nobody wants the engine here any more, and it is to finish what it runs.
        meeting: for the next generation, where this node leads; None while no ports are to be had.
    """

    running: int = 0
    exit: str | None = None
    ready: bool = False
    changed: bool = False
    leaving: bool = False
    unwanted: bool = False
    meeting: Meeting | None = None


class GroupTimers(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds.

    Attributes:
        join: an offer that not all have joined within this is withdrawn.
        again: after that, before the next one.
        grace: for members to be heard of after this node process has started, before they count as lost.
        healthy_after: a generation that was ready this long makes earlier failures forgotten.
        delay: gives the time before the next generation after so many failures in a row.
    """

    join: float = 10.0
    again: float = 1.0
    grace: float = 10.0
    healthy_after: float = 120.0
    delay: Callable[[int], float] = lambda _: 1.0
