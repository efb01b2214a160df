"""Keeps this node in agreement with the others on who joined, who left, and what was applied last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shoal import __version__
from shoal.cluster.agreed import Agreed, Applied, Joined, merge
from shoal.cluster.view import Member, MemberState, View
from shoal.config import Config
from shoal.config.shared import shared
from shoal.node.agreed_store import AgreedStore, Kept, with_joined
from shoal.node.events import Events
from shoal.node.link import LinkClient, LinkError
from shoal.node.orders import Handler, RefusedError, text_of

AGREED, JOIN = "/shoal/v1/agreed", "/shoal/v1/join"
# A member whose digest stays another one is asked again after this long. Seconds.
_ASK_AGAIN = 2.0


class Agreement:
    """What the cluster agreed on, as this node knows it.

    Args:
        node: this node's name.
        store: keeps it.
        kept: what the store had.
        base: this node's configuration without the nodes that joined.
        view: returns members and engines.
        client: asks other nodes.
        events: gets a sentence for each change.
        on_change: called with the former and the present state after each change.

    Attributes:
        state: what is agreed on.
        digest: of that.
    """

    def __init__(
        self,
        node: str,
        store: AgreedStore,
        kept: Kept,
        base: Callable[[], Config],
        *,
        view: Callable[[], View],
        client: LinkClient,
        events: Events,
        on_change: Callable[[Agreed, Agreed], None],
    ) -> None:
        self.state = kept.agreed
        self.digest = self.state.digest()
        self._kept = kept
        self._node = node
        self._store = store
        self._base = base
        self._view = view
        self._client = client
        self._events = events
        self._on_change = on_change
        self._asked: dict[str, tuple[str, float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what other nodes ask, by method and path."""
        return {
            ("GET", AGREED): self._tell,
            ("POST", AGREED): self._hear_of,
            ("POST", JOIN): self._take_in,
        }

    def hear(self, view: View) -> None:
        """Ask members that know something else."""
        now, mine = time.monotonic(), self.digest
        for member in view.members:
            report = member.report
            if member.is_self or member.state is not MemberState.ALIVE or report is None or not report.agreed:
                continue
            said, at = self._asked.get(member.name, ("", float("-inf")))
            if report.agreed != mine and (report.agreed != said or now - at > _ASK_AGAIN):
                self._asked[member.name] = report.agreed, now
                task = asyncio.create_task(self._ask(member))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def join(self) -> None:
        """Say that this node belongs to the cluster, where the others have heard that it left for good."""
        entry = self.state.joined.get(self._node)
        if entry is not None and not entry.present and not self._leaving:
            self._note(msgspec.structs.replace(entry, present=True, stamp=self._stamp(entry.stamp)))

    async def leave(self) -> None:
        """Say that this node has left for good, tell the others, and forget all that was agreed on.

        Raises:
            OSError: what is on disk cannot be removed.
        """
        self._leaving = True
        host, _, port = self._node.rpartition(":")
        entry = self.state.joined.get(self._node) or Joined(host=host, port=int(port))
        self._store.forget()
        self._become(
            self._with(msgspec.structs.replace(entry, present=False, stamp=self._stamp(entry.stamp)))
        )
        # They would hear of it from heartbeats and ask, but this node may be gone by then.
        await self.tell_all()

    def forget(self, name: str) -> None:
        """Say that a node that is lost will not come back; where it does, it belongs to the cluster again.

        Raises:
            RefusedError: it cannot be written.
        """
        host, _, port = name.rpartition(":")
        entry = self.state.joined.get(name) or Joined(host=host, port=int(port))
        if entry.present:
            self._note(msgspec.structs.replace(entry, present=False, stamp=self._stamp(entry.stamp)))

    async def tell_all(self) -> None:
        """Tell all nodes that live what this one knows; who does not answer asks later."""
        others = [m for m in self._view().members if m.state is MemberState.ALIVE and not m.is_self]
        told = msgspec.to_builtins(self.state)
        await asyncio.gather(
            *(self._client.ask(m, "POST", AGREED, told) for m in others), return_exceptions=True
        )

    def apply(self, applied: Applied) -> None:
        """Take a configuration as the one applied last, and remember it.

        Raises:
            RefusedError: it cannot be written.
        """
        self._take(merge(self.state, Agreed(applied=applied)))

    # -- what others ask

    async def _tell(self, _: Mapping[str, Any]) -> Any:
        return msgspec.to_builtins(self.state)

    async def _hear_of(self, arguments: Mapping[str, Any]) -> Any:
        try:
            self._learn(msgspec.convert(arguments, Agreed))
        except msgspec.ValidationError as error:
            raise RefusedError(f"that is nothing to agree on: {error}", 400) from None
        return {}

    async def _take_in(self, arguments: Mapping[str, Any]) -> Any:
        name, version = text_of(arguments, "node"), text_of(arguments, "version")
        problem = version_problem(version, __version__)
        if problem is not None:
            self._events.add(f"{name} may not join: {problem}", "warning")
            raise RefusedError(f"it may not join: {problem}")
        host, _, port = name.rpartition(":")
        if not host or not port.isdecimal():
            raise RefusedError(f"{name} is no HOST:PORT", 400)
        member = self._view().member(name)
        if member is not None and member.state is MemberState.ALIVE and not member.is_self:
            raise RefusedError(
                f"a node {name} already runs in this cluster; --node HOST:PORT names another one"
            )
        base = self._base()
        known = self.state.joined.get(name)
        entry = Joined(host=host, port=int(port), stamp=self._stamp(known.stamp if known else 0))
        if base.node(name) is None or known is not None:
            candidate = self._with(entry)
            if with_joined(base, candidate, self._node).node(name) is None:
                first, last = base.engines.ports
                raise RefusedError(
                    f"{name} cannot be a node of this cluster: its port may not be among `engines.ports` ({first} to "
                    f"{last}), and its host must be an address or a name"
                )
            self._note(entry)
            self._events.add(f"node {name} is taken in: it joins by way of {self._node}")
        return {
            "node": self._node,
            "version": __version__,
            "agreed": msgspec.to_builtins(self.state),
            "document": shared(base),
        }

    async def _ask(self, member: Member) -> None:
        try:
            told = await self._client.ask(member, "GET", AGREED)
            self._learn(msgspec.convert(told, Agreed))
        except (LinkError, msgspec.ValidationError):
            return  # it is asked again
        except RefusedError as error:
            self._events.add(str(error), "error")

    def _learn(self, theirs: Agreed) -> None:
        if not self._leaving:
            self._take(merge(self.state, theirs))
            self.join()

    # -- changes

    def _note(self, entry: Joined) -> None:
        self._take(self._with(entry))

    def _with(self, entry: Joined) -> Agreed:
        return msgspec.structs.replace(self.state, joined=self.state.joined | {entry.name: entry})

    def _stamp(self, after: int) -> int:
        """Return a time that is later than `after`, whatever this machine's clock says."""
        return max(time.time_ns() // 1_000_000, after + 1)

    def _take(self, state: Agreed) -> None:
        """Remember a state, on disk first, and let it hold.

        Raises:
            RefusedError: it cannot be written.
        """
        if state == self.state:
            return
        try:
            self._kept = msgspec.structs.replace(self._kept, agreed=state)
            self._store.write(self._kept)
        except OSError as error:
            raise RefusedError(f"what the cluster agreed on cannot be written: {error}", 500) from error
        self._become(state)

    def _become(self, state: Agreed) -> None:
        former, self.state = self.state, state
        self.digest = state.digest()
        self._on_change(former, state)


def version_problem(theirs: str, mine: str) -> str | None:
    """Return why nodes of two releases do not go together, None if they do: the major versions must be equal.

    Args:
        theirs: version of the node that joins.
        mine: version of the member it asks.
    """
    if theirs.partition(".")[0] == mine.partition(".")[0]:
        return None
    return f"it runs Shoal {theirs}, this cluster {mine}, and the major versions must be the same"
