"""The events of all nodes in one list, as `shoal events --all` tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from shoal.cluster.view import MemberState, View
from shoal.node.link import LinkClient, LinkError


async def all_events(
    view: View, client: LinkClient, own: Iterable[dict[str, Any]], count: int
) -> list[dict[str, Any]]:
    """Return the last `count` events of all nodes that answer, oldest first, each with its ``node``.

    The order is that of the nodes' own clocks.

    Args:
        view: members; those that live are asked.
        client: asks them.
        own: this node's events.
        count: how many of each node, and in all.
    """
    others = [m.name for m in view.members if m.state is MemberState.ALIVE and not m.is_self]
    lists = await asyncio.gather(*(_events_of(view, name, client, count) for name in others))
    found = [event | {"node": view.me} for event in own]
    for name, events in zip(others, lists, strict=True):
        found += [event | {"node": name} for event in events]
    return sorted(found, key=lambda event: float(event["time"]))[-count:]


async def _events_of(view: View, name: str, client: LinkClient, count: int) -> list[dict[str, Any]]:
    member = view.member(name)
    assert member is not None
    try:
        events: list[dict[str, Any]] = await client.ask(
            member, "GET", "/shoal/v1/events", {"count": count}, timeout=3
        )
    except LinkError:
        return []
    return events
