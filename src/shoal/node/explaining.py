"""What became of a request, asked of the gateways of all nodes: only the one that had it knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from shoal.cluster.view import Member, MemberState, View
from shoal.gateway.trace import Explained
from shoal.node.link import LinkClient, LinkError
from shoal.node.orders import Handler, text_of

EXPLAIN: Final = "/shoal/v1/explain"


class Explaining:
    """Answers questions for requests.

    Args:
        node: this node's name.
        remembered: returns what this node's gateway remembers of a name.
        view: returns members.
        client: asks other nodes.
    """

    def __init__(
        self,
        node: str,
        remembered: Callable[[str], Awaitable[Sequence[Explained]]],
        view: Callable[[], View],
        client: LinkClient,
    ) -> None:
        self._node = node
        self._remembered = remembered
        self._view = view
        self._client = client

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what answers other nodes, by method and path."""
        return {("GET", EXPLAIN): self._tell}

    async def everywhere(self, name: str) -> dict[str, Any]:
        """Return ``requests`` of a name, newest first, each with its ``node``, and the nodes that were not ``reached``.

        Args:
            name: a request's name, or the id in the body of its answer.
        """
        others = [m for m in self._view().members if not m.is_self]
        alive = [m for m in others if m.state in (MemberState.ALIVE, MemberState.SUSPECT)]
        own, *told = await asyncio.gather(self._own(name), *(self._ask(m, name) for m in alive))
        found = list(own or ())
        silent = [m.name for m in others if m not in alive]
        for member, requests in zip(alive, told, strict=True):
            if requests is None:
                silent.append(member.name)
            else:
                found += requests
        found.sort(key=lambda request: float(request["began"]), reverse=True)
        return {"requests": found, "unreached": silent}

    async def _own(self, name: str) -> list[dict[str, Any]] | None:
        return [
            {"node": self._node} | msgspec.to_builtins(request) for request in await self._remembered(name)
        ]

    async def _ask(self, member: Member, name: str) -> list[dict[str, Any]] | None:
        try:
            told: list[dict[str, Any]] = await self._client.ask(
                member, "GET", EXPLAIN, {"id": name}, timeout=4
            )
        except LinkError:
            return None
        return told

    async def _tell(self, arguments: Mapping[str, Any]) -> Any:
        return await self._own(text_of(arguments, "id"))
