"""A group's processes over TCP: how they meet, work in step, and what they see of each other's end.

Followers connect to the leader's master port. One line of JSON says who comes; from then on each byte is a message.
The real thing takes far more connections (torch's store, gloo or NCCL, ZeroMQ); what they show outside is the same:
nobody is ready before all are there, no step ends before all have done their part, and a lost member is noticed by
nobody but the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from shoal.sim.listener import CannotListenError, bind
from shoal.sim.loading import log
from shoal.sim.place import Place

_GO = b"g"  # leader: all are there, load
_LOADED = b"l"  # follower: it has loaded
_STEP = b"s"  # leader: compute a step
_DONE = b"d"  # follower: it has computed one
_BROKEN = b"x"  # follower: its worker is dead, and with it what the group computes together
_RETRY = 0.05  # seconds between two attempts to reach the leader


class GroupError(Exception):
    """The group did not come about; the message says why."""


class _Member(asyncio.Protocol):
    """The leader's side of one follower's connection."""

    def __init__(self, leader: Leader) -> None:
        self.rank = 0
        self.pid = 0
        self.loaded = False
        self.done = 0
        self.lost = False
        self._leader = leader
        self._pending = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if not self.rank:
            self._pending += data
            line, newline, data = self._pending.partition(b"\n")
            if not newline:
                return
            if refusal := self._greet(line):
                assert self._transport is not None
                self._transport.write(refusal.encode())
                self._transport.close()
                return
        for message in data:
            match bytes((message,)):
                case b"l":
                    self.loaded = True
                case b"d":
                    self.done += 1
                case b"x":
                    self._leader.broke(self)
        self._leader.heard()

    def _greet(self, line: bytes) -> str:
        """Take in who it is; return why not, "" if it may stay."""
        try:
            said = json.loads(line)
            rank, pid, shape = int(said["rank"]), int(said["pid"]), tuple(said["shape"])
        except (ValueError, KeyError, TypeError):
            return "not a member of a group"
        refusal = self._leader.admit(rank, shape)
        if not refusal:
            self.rank, self.pid = rank, pid
            self._leader.members[rank] = self
        return refusal

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.rank:
            self._leader.lost(self)

    def tell(self, message: bytes) -> None:
        """Send a message, if anybody is there."""
        if not self.lost and self._transport is not None:
            self._transport.write(message)


class Leader:
    """Node rank 0: gathers the followers, and hands them every step.

    Args:
        place: its place; rank 0.

    Attributes:
        members: the followers that came, by rank, lost ones too once all had come.
        steps: that the group was handed.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.members: dict[int, _Member] = {}
        self.steps = 0
        self._began = 0.0
        self._all_here = asyncio.Event()
        self._all_loaded = asyncio.Event()
        self._formed = False
        self._waiting: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._on_dead: Callable[[], None] | None = None
        self._broken = False

    async def gather(self, then: Callable[[Place], None] | None = None) -> asyncio.Server:
        """Open the master port and wait until all followers have come; return what keeps it open.

        Args:
            then: called with the place once the port is open, whose number may have been left open (0).

        Raises:
            CannotListenError: the port is taken, or the address not this machine's.
            GroupError: they did not all come.
        """
        place = self.place
        sock = bind(place.master_addr, place.master_port)
        try:
            server = await asyncio.get_running_loop().create_server(lambda: _Member(self), sock=sock)
        except OSError as error:
            sock.close()
            raise CannotListenError((place.master_addr, place.master_port), error) from error
        place = self.place = replace(place, master_port=sock.getsockname()[1])
        if then is not None:
            then(place)
        _log_rendezvous(place)
        try:
            await asyncio.wait_for(self._all_here.wait(), place.join_timeout)
        except TimeoutError:
            raise GroupError(
                f"Timed out after {place.join_timeout:g} seconds waiting for clients. "
                f"{1 + len(self.members)}/{place.nnodes} clients joined."
            ) from None
        self._formed = True
        self._tell(_GO)
        return server

    async def loaded(self) -> None:
        """Wait until all followers have loaded.

        Raises:
            GroupError: one has left meanwhile.
        """
        self.heard()
        await self._all_loaded.wait()
        if any(member.lost for member in self.members.values()):
            raise GroupError("a follower was lost while the group loaded")

    def watch(self, on_dead: Callable[[], None]) -> None:
        """Call `on_dead` once when a step was not done in time, or never will be: vLLM's engine core dies of it."""
        self._on_dead = on_dead
        if self._broken:
            self._dead()

    def begin(self) -> None:
        """Hand a step to all followers."""
        self.steps += 1
        self._began = time.monotonic()
        self._tell(_STEP)

    def done(self, then: Callable[[], None]) -> bool:
        """Return whether all followers have done the step; if not, `then` is called once they have."""
        if self._lagging():
            self._waiting = then
            self._look_at_lost()
            if self._timer is None:
                left = self._began + self.place.execute_timeout - time.monotonic()
                self._timer = asyncio.get_running_loop().call_later(max(0.0, left), self._too_late)
            return False
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    def describe(self) -> dict[str, object]:
        """Return what ``GET /sim/state`` says of the group."""
        return {
            "nnodes": self.place.nnodes,
            "master": f"{self.place.master_addr}:{self.place.master_port}",
            "steps": self.steps,
            "followers": [
                {"rank": rank, "pid": member.pid, "connected": not member.lost, "done": member.done}
                for rank, member in sorted(self.members.items())
            ],
        }

    # -- what the connections tell

    def admit(self, rank: int, shape: tuple[int, ...]) -> str:
        """Return why a follower may not join, "" if it may."""
        if shape != self.place.shape:
            ours, theirs = (
                f"nnodes, tensor and pipeline parallel sizes {tuple(s)}" for s in (self.place.shape, shape)
            )
            return f"the leader has {ours}, this follower {theirs}"
        if not 0 < rank < self.place.nnodes:
            return f"there is no follower with node rank {rank} of {self.place.nnodes}"
        if self._formed or rank in self.members:
            return f"node rank {rank} is taken"
        return ""

    def heard(self) -> None:
        """Look whether that is what somebody waits for."""
        members = self.members.values()
        if len(members) == self.place.nnodes - 1:
            self._all_here.set()
            if all(member.loaded or member.lost for member in members):
                self._all_loaded.set()
        if self._waiting is not None and not self._lagging():
            then, self._waiting = self._waiting, None
            then()

    def lost(self, member: _Member) -> None:
        """Take note of a connection's end: a formed group does nothing about it as long as it has nothing to do."""
        if not self._formed:
            self.members.pop(member.rank, None)
        self.heard()
        self._look_at_lost()

    def broke(self, member: _Member) -> None:
        """Take note that a follower's worker is dead: what the group computes together fails at once."""
        log("Worker", f"RuntimeError: Connection reset by peer (node rank {member.rank})")
        self._broken = True
        self._dead()

    def _look_at_lost(self) -> None:
        if self._waiting is None or self.place.hangs_without_follower:
            return
        if lost := next((member for member in self.members.values() if member.lost), None):
            asyncio.get_running_loop().call_soon(self.broke, lost)

    def _lagging(self) -> bool:
        return any(member.done < self.steps for member in self.members.values())

    def _too_late(self) -> None:
        self._timer = None
        log(
            "EngineCore",
            "EngineCore encountered a fatal error. TimeoutError: RPC call to sample_tokens timed out.",
        )
        self._dead()

    def _dead(self) -> None:
        if self._on_dead is not None:
            on_dead, self._on_dead = self._on_dead, None
            on_dead()

    def _tell(self, message: bytes) -> None:
        for member in self.members.values():
            member.tell(message)


class Follower:
    """Any other node: does what the leader says, for as long as there is one.

    Args:
        place: its place; a rank above 0.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def join(self) -> None:
        """Wait for the leader and for all others.

        Raises:
            GroupError: there is no leader, it refuses, or it left.
        """
        place = self._place
        _log_rendezvous(place)
        try:
            async with asyncio.timeout(place.join_timeout):
                self._reader, self._writer = await self._connect()
                who = {"rank": place.rank, "pid": os.getpid(), "shape": place.shape}
                self._writer.write(json.dumps(who).encode() + b"\n")
                answer = await self._reader.read(1)
        except TimeoutError:
            raise GroupError(
                f"The client socket has timed out after {place.join_timeout * 1000:.0f}ms while trying to "
                f"connect to ({place.master_addr}, {place.master_port})."
            ) from None
        except OSError as error:
            raise GroupError(f"the leader has left: {error}") from error
        if answer != _GO:
            said = answer + await self._reader.read()
            raise GroupError(said.decode() or "the leader has left before the group was there")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                return await asyncio.open_connection(self._place.master_addr, self._place.master_port)
            except OSError:
                await asyncio.sleep(_RETRY)

    async def work(self) -> None:
        """Do one step after the other until the leader is gone; for ever, if it is to outlive it."""
        assert self._reader is not None
        assert self._writer is not None
        with contextlib.suppress(OSError):
            self._writer.write(_LOADED)
            while steps := await self._reader.read(64):
                self._writer.write(_DONE * steps.count(_STEP))
        if self._place.outlives_leader:
            await asyncio.Event().wait()

    async def give_up(self) -> None:
        """Tell the leader that a worker is dead."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.write(_BROKEN)
                await self._writer.drain()


def _log_rendezvous(place: Place) -> None:
    for worker in place.workers:
        log(
            worker, f"world_size={place.world_size} init_method=tcp://{place.master_addr}:{place.master_port}"
        )
