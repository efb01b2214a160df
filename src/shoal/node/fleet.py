"""What operators do to nodes while they serve: drain, undrain, leave. Done here, or passed on to the node meant."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from shoal.cluster.view import MemberState, View, full_id
from shoal.config import Config
from shoal.node.events import Events
from shoal.node.floor import below_floor, engines_of
from shoal.node.link import LinkClient, LinkError
from shoal.node.orders import Handler, RefusedError, text_of

OUT = "/shoal/v1/nodes/out"
DRAIN, UNDRAIN, LEAVE = "/shoal/v1/nodes/drain", "/shoal/v1/nodes/undrain", "/shoal/v1/nodes/leave"

_OUT_TIMEOUT = 2.0  # s that another node has to say whether it goes out of rotation
_KNOWN_AFTER = 4  # heartbeats: then the others' views have it, though some may get lost


class Fleet:
    """The orders that concern one node.

    Args:
        node: this node's name.
        state_dir: the node's directory.
        config: returns the configuration as it is now.
        view: returns members and engines.
        answers: returns whether engines of silent members answer, by full id.
        client: asks other nodes.
        events: gets a sentence for each order.
        on_change: called when this node's report has changed.
        leave: called when this node is to leave for good; returns when the others know.

    Attributes:
        drained: the node's engines are out of rotation, until they are put back; also over restarts.
    """

    def __init__(
        self,
        node: str,
        state_dir: Path,
        *,
        config: Callable[[], Config],
        view: Callable[[], View],
        answers: Callable[[], Mapping[str, bool]],
        client: LinkClient,
        events: Events,
        on_change: Callable[[], None],
        leave: Callable[[], Awaitable[None]],
    ) -> None:
        self._node = node
        self._config = config
        self._view = view
        self._answers = answers
        self._client = client
        self._events = events
        self._on_change = on_change
        self._leave = leave
        self._going_out = False
        self._restarting: dict[str, float] = {}  # until when views may not know it yet, by full id
        self._record = state_dir / "drained"
        self.drained = self._record.exists()
        if self.drained:
            events.add(
                f"node {node} is still drained, as before its restart: `shoal undrain {node}` ends that"
            )

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what takes the orders, by method and path."""
        return {
            ("POST", DRAIN): self._drain,
            ("POST", UNDRAIN): self._undrain,
            ("POST", LEAVE): self._go,
            ("GET", OUT): self._tell_out,
        }

    async def _drain(self, arguments: Mapping[str, Any]) -> Any:
        if (passed := await self.pass_on(DRAIN, arguments)) is not None:
            return passed
        if not self.drained:
            await self._require_floor(arguments, "drained")
            try:
                self._keep(drained=True)
            finally:
                self._going_out = False
            self._events.add(
                f"node {self._node} is drained: its engines get no new requests, running ones finish"
            )
        return {"node": self._node, "drained": True}

    async def _undrain(self, arguments: Mapping[str, Any]) -> Any:
        if (passed := await self.pass_on(UNDRAIN, arguments)) is not None:
            return passed
        if self.drained:
            self._keep(drained=False)
            self._events.add(f"node {self._node} takes requests again")
        return {"node": self._node, "drained": False}

    async def _go(self, arguments: Mapping[str, Any]) -> Any:
        if (passed := await self.pass_on(LEAVE, arguments)) is not None:
            return passed
        if not self.drained:
            await self._require_floor(arguments, "gone")
        self._events.add(f"node {self._node} leaves the cluster for good, as it was told to")
        self._keep(drained=False)  # who comes back some day comes to work
        try:
            await self._leave()
        except OSError as error:
            self._going_out = False
            raise RefusedError(f"what this node remembers cannot be removed: {error}", 500) from error
        return {"node": self._node, "timeout": self._config().recovery.drain_timeout}

    async def pass_on(self, path: str, arguments: Mapping[str, Any]) -> Any | None:
        """Return the answer of the node that is meant, None if it is this one.

        Args:
            path: of the order.
            arguments: of the order; ``node`` names who is meant.

        Raises:
            RefusedError: there is no such node, it does not answer, or it refuses.
        """
        node = text_of(arguments, "node") if "node" in arguments else self._node
        if node == self._node:
            return None
        view = self._view()
        member = view.member(node)
        if member is None:
            names = ", ".join(m.name for m in view.members)
            raise RefusedError(f"{node} is no node of this cluster; it has: {names}", 404)
        if member.state not in (MemberState.ALIVE, MemberState.SUSPECT):
            raise RefusedError(f"node {node} is {member.state}: it cannot be told")
        if arguments.get("passed_on"):
            raise RefusedError(f"node {self._node} was asked in place of {node}", 400)
        try:
            return await self._client.ask(member, "POST", path, {**arguments, "passed_on": True})
        except LinkError as error:
            raise RefusedError(str(error), error.status or 502) from None

    async def _tell_out(self, _: Mapping[str, Any]) -> Any:
        return {"out": self.drained or self._going_out, "engines": self._on_their_way_out()}

    async def require_floor_without(self, engine: str, *, force: bool) -> None:
        """Take an engine of this node out because it restarts, if enough is left without it, as in `_require_floor`.

        Args:
            engine: its id on this node.
            force: do it all the same.

        Raises:
            RefusedError: too little would be left, and nobody forces it.
        """
        name = full_id(self._node, engine)
        before = self._on_their_way_out()
        self._restarting[name] = time.monotonic() + _KNOWN_AFTER * self._config().cluster.heartbeat_interval
        out = [*before, *(await self._others_out() if not force else ())]
        problem = below_floor(self._config(), self._view(), self._answers(), [name], out)
        if problem is None:
            return
        if not force:
            self.stays(engine)
            raise RefusedError(f"while engine {name} restarts, {problem}; it can be forced")
        self._events.add(f"forced: while engine {name} restarts, {problem}", "warning")

    def stays(self, engine: str) -> None:
        """An engine of this node does not restart after all."""
        self._restarting.pop(full_id(self._node, engine), None)

    def _on_their_way_out(self) -> list[str]:
        now = time.monotonic()
        self._restarting = {name: until for name, until in self._restarting.items() if now < until}
        return list(self._restarting)

    async def _require_floor(self, arguments: Mapping[str, Any], what: str) -> None:
        """Take this node out, if enough is left without it; others learn of it in no time, but not in none.

        Two nodes that are taken out at the same moment would each count on the other. So each first says that it goes
        and then asks the others whether they do: of any two, at least the one that asks later hears of the other.

        Raises:
            RefusedError: too little would be left, and nobody forces it.
        """
        forced = arguments.get("force") is True
        self._going_out = True
        out = await self._others_out() if not forced else []
        view = self._view()
        problem = below_floor(self._config(), view, self._answers(), engines_of(view, self._node), out)
        if problem is None:
            return
        if not forced:
            self._going_out = False
            raise RefusedError(f"with node {self._node} {what}, {problem}; `--force` does it all the same")
        self._events.add(f"forced: with node {self._node} {what}, {problem}", "warning")

    async def _others_out(self) -> list[str]:
        """Return the full ids of other nodes' engines that these say are out of rotation, or about to be."""
        view = self._view()
        others = [m for m in view.members if m.state is MemberState.ALIVE and not m.is_self]
        answers = await asyncio.gather(
            *(self._client.ask(m, "GET", OUT, timeout=_OUT_TIMEOUT) for m in others), return_exceptions=True
        )
        told = [(m, a) for m, a in zip(others, answers, strict=True) if isinstance(a, dict)]
        return [
            engine
            for member, answer in told
            for engine in (
                engines_of(view, member.name) if answer.get("out") is True else answer.get("engines", ())
            )
        ]

    def _keep(self, *, drained: bool) -> None:
        """Remember, on disk first: what is told holds over restarts.

        Raises:
            RefusedError: it cannot be written.
        """
        try:
            if drained:
                self._record.touch()
            else:
                self._record.unlink(missing_ok=True)
        except OSError as error:
            raise RefusedError(f"{self._record} cannot be written: {error.strerror}", 500) from error
        self.drained = drained
        self._on_change()
