"""The logs that a node gives: its own, and those of its engines. Any node of the cluster passes a question on.

Logs may hold parts of prompts, so they are told to signed requests only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from shoal.cluster.view import MemberState, View, full_id
from shoal.engine import log_follow
from shoal.engine.record import log_path
from shoal.node.link import LinkClient, LinkError
from shoal.node.orders import Handler, RefusedError, text_of
from shoal.observe import logs

LOGS: Final = "/shoal/v1/logs"
MOST_LINES: Final = 10_000

_PRESENT = (MemberState.ALIVE, MemberState.SUSPECT)


class LogReading:
    """Answers questions for logs.

    Args:
        node: this node's name.
        state_dir: the node's directory.
        view: returns members and engines.
        client: asks other nodes.
    """

    def __init__(self, node: str, state_dir: Path, view: Callable[[], View], client: LinkClient) -> None:
        self._node = node
        self._state_dir = state_dir
        self._view = view
        self._client = client

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what answers, by method and path.

        The query has ``of`` (a node's name, an engine's id or its full id), and either ``cursor``, to go on where an
        answer ended, or ``lines``; ``since`` (seconds since the epoch) leaves older lines out, ``follow=1`` an
        unfinished last one. The answer has ``node``, ``of``, ``lines`` and ``cursor``.
        """
        return {("GET", LOGS): self._tell}

    async def _tell(self, arguments: Mapping[str, Any]) -> Any:
        node, engine = find(self._view(), text_of(arguments, "of"))
        if node != self._node:
            member = self._view().member(node)
            assert member is not None
            asked = dict(arguments) | {"of": full_id(node, engine) if engine else node}
            try:
                return await self._client.ask(member, "GET", LOGS, asked)
            except LinkError as error:
                raise RefusedError(f"node {node} does not tell it: {error}", error.status or 502) from None
        try:
            if engine:
                lines, cursor = await asyncio.to_thread(self._of_engine, engine, arguments)
            else:
                lines, cursor = _own(arguments)
        except ValueError:
            raise RefusedError("`lines`, `since` and `cursor` are numbers", 400) from None
        except OSError as error:
            raise RefusedError(f"the log cannot be read: {error.strerror}", 500) from None
        return {
            "node": node,
            "of": full_id(node, engine) if engine else node,
            "lines": lines,
            "cursor": cursor,
        }

    def _of_engine(self, engine: str, arguments: Mapping[str, Any]) -> tuple[list[str], str]:
        path = log_path(self._state_dir, engine)
        if not path.exists():
            raise RefusedError(f"engine {engine} has no log on node {self._node}", 404)
        if cursor := arguments.get("cursor"):
            return log_follow.news(path, str(cursor))
        earliest = float(arguments.get("since") or 0)
        count = _count(arguments)
        lines, end = log_follow.last_lines(
            path, MOST_LINES if earliest else count, whole=arguments.get("follow") == "1"
        )
        return (log_follow.since(lines, earliest)[-count:] if earliest else lines), end


def _own(arguments: Mapping[str, Any]) -> tuple[list[str], str]:
    kept = logs.recent()
    if kept is None:
        raise RefusedError("this process keeps no log", 404)
    cursor = arguments.get("cursor")
    lines, end = kept.after(int(cursor or 0), float(arguments.get("since") or 0))
    return lines if cursor else lines[-_count(arguments) :], str(end)


def _count(arguments: Mapping[str, Any]) -> int:
    return min(MOST_LINES, max(1, int(arguments.get("lines") or 200)))


def find(view: View, named: str) -> tuple[str, str]:
    """Return the node and the engine's id that a person means; no id where a node is meant.

    Args:
        view: members and engines.
        named: a node's name, an engine's full id, or its id alone where only one node has such an engine.

    Raises:
        RefusedError: there is no such one, or there are several.
    """
    if view.member(named) is not None:
        return named, ""
    node, _, engine = named.partition("/")
    if engine and view.member(node) is not None:
        return node, engine
    found = [
        (member.name, engine_id)
        for member in view.members
        if member.report is not None and member.state in _PRESENT
        for engine_id in dict.fromkeys(
            [*(e.id for e in member.report.engines), *(s.engine for s in member.report.seats)]
        )
        if engine_id == named
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(full_id(*one) for one in found)
        raise RefusedError(f"several nodes have an engine {named}: name one of {names}", 409)
    known = [m.name for m in view.members]
    known += [full_id(member.name, e.id) for member, e in view.engines()]
    raise RefusedError(f"there is no node or engine {named}; there are: {', '.join(known)}", 404)
