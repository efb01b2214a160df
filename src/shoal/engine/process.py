"""An engine's life as a process: started or adopted, watched, ended with all that belongs to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shoal.engine import exits, record, shm, tree
from shoal.engine.command import command, environment
from shoal.engine.executors import executor
from shoal.engine.exits import Exit
from shoal.engine.machine import Machine
from shoal.engine.ports import Reservation, hold
from shoal.engine.record import Record
from shoal.engine.spawn import StartError, spawn
from shoal.engine.spec import EngineSpec

_FIRST_SURVEY = 1.0
_LAST_SURVEY = 30.0
"""Seconds from one look at the tree to the next: short at first, when workers and shared memory come into being."""

_SETTLE = 0.5
"""Seconds the others have to go by themselves when the leader followed our request."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What it took to end an engine.

    Attributes:
        exit: how the leader ended; None if that is not known, or it has not.
        killed: processes that had to be killed, as in ``VLLM::Worker (pid 12)``.
        left: processes that could not be ended.
        segments: shared memory that was removed after them.
        seconds: it took.
    """

    exit: Exit | None
    killed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        sentence = f"{self.exit or 'ended'}, gone after {self.seconds:.1f} s"
        if self.killed:
            sentence += f"; killed {', '.join(self.killed)}"
        if self.segments:
            sentence += f"; removed shared memory it left behind: {', '.join(self.segments)}"
        if self.left:
            sentence += f"; STILL THERE: {', '.join(self.left)}"
        return sentence


class Adoption(msgspec.Struct, frozen=True):
    """Whether a recorded engine could be taken over.

    Attributes:
        process: the engine; None if it could not.
        reason: sentence that says why not; ``""`` if it could.
    """

    process: EngineProcess | None
    reason: str = ""


class EngineProcess:
    """A running engine, our child or one that an earlier node process left behind.

    Made by `start` and `adopt` only. The engine outlives this object and this program, unless `terminate` ends it.
    When it ends by itself, call `terminate` all the same: it ends what is left of its tree.

    Attributes:
        adopted: it was started by an earlier node process.
        exited: done when the leader has ended, whoever ended it. Its result says how.
    """

    adopted: bool
    exited: asyncio.Future[Exit]

    def __init__(
        self, state_dir: Path, rec: Record, pidfd: int, reservation: Reservation | None, adopted: bool
    ) -> None:
        """Begin to watch; must be called in a running event loop."""
        self.adopted = adopted
        self._state_dir = state_dir
        self._record = rec
        self._pidfd = pidfd
        self._reservation = reservation
        self._loop = asyncio.get_running_loop()
        self._out_of_memory_kills = exits.out_of_memory_kills()
        self._surveying = asyncio.Lock()
        self._ending: asyncio.Task[Ended] | None = None
        self._ended = False
        self.exited = self._loop.create_future()
        self._loop.add_reader(pidfd, self._on_exit)
        self._watcher = self._loop.create_task(self._watch(), name=f"watch {rec.id}")

    @property
    def record(self) -> Record:
        """What is known of the engine; a new one replaces it as its tree changes."""
        return self._record

    @property
    def pid(self) -> int:
        """Number of the leader."""
        return self._leader.pid

    @property
    def log(self) -> Path:
        """File the engine writes to."""
        return Path(self._record.log)

    @property
    def _leader(self) -> tree.Ident:
        assert self._record.leader is not None
        return self._record.leader

    @classmethod
    async def start(
        cls,
        spec: EngineSpec,
        state_dir: Path,
        *,
        reservation: Reservation | None = None,
        machine: Machine | None = None,
        base: Mapping[str, str] | None = None,
        lifeline: socket.socket | None = None,
    ) -> EngineProcess:
        """Start `spec` in a session of its own, its output appended to its log.

        A record is written before the process exists, so that its marker is known whatever happens in between.

        Args:
            spec: what to start, port included.
            state_dir: the node's directory; the engine is kept under ``engines/`` and ``logs/``.
            reservation: of its port; released when the engine has been ended, and left to the caller on an error.
            machine: for the defaults of engines on CPUs, see `command.environment`.
            base: environment to build on, by default this process's.
            lifeline: given to the process, see `shoal.engine.lifeline`; closed here in any case.

        Raises:
            StartError: the program or its log could not be opened.
        """
        marker = uuid.uuid4().hex
        words = command(spec, machine)
        variables = environment(spec, os.environ if base is None else base, marker, machine)
        rec = Record(
            id=spec.id,
            model=spec.model,
            kind=spec.kind,
            served_name=spec.served_name,
            host=spec.host,
            port=spec.port,
            gpus=spec.gpus,
            parts=spec.parts(),
            fingerprint=spec.fingerprint(),
            marker=marker,
            log=str(record.log_path(state_dir, spec.id).absolute()),
            boot=tree.boot_id(),
            started=time.time(),
            authority=spec.tls.authority if spec.tls else "",
            part=spec.part,
            lifeline=lifeline.getsockname()[1] if lifeline else 0,
            health=spec.health,
        )
        spawning = asyncio.ensure_future(asyncio.to_thread(spawn, words, variables, state_dir, rec, lifeline))
        if lifeline is not None:
            spawning.add_done_callback(lambda _: lifeline.close())
        try:
            rec, pidfd = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            # Whoever cancels expects no engine, and the thread cannot be stopped half-way.
            with contextlib.suppress(StartError):
                await cls(state_dir, *(await spawning), reservation, False).terminate(0)
            raise
        return cls(state_dir, rec, pidfd, reservation, False)

    @classmethod
    async def adopt(cls, rec: Record, state_dir: Path, spec: EngineSpec | None = None) -> Adoption:
        """Take over the engine of `rec` from a node process that is gone, without disturbing it.

        Args:
            rec: what that one left on disk.
            state_dir: the directory the record is from.
            spec: what the engine should be, its port aside; None takes it as it is.
        """
        pidfd, reason = await asyncio.to_thread(_recognise, rec, spec)
        if pidfd is None:
            return Adoption(None, reason)
        reservation = None
        with contextlib.suppress(OSError):
            reservation = hold(rec.host, rec.port)  # to be had only while the engine does not listen yet
        return Adoption(cls(state_dir, rec, pidfd, reservation, True))

    async def survey(self) -> None:
        """Look at the tree now and note its processes and shared memory; worth doing when the engine gets ready."""
        async with self._surveying:
            if not self._ended:
                self._record = await asyncio.to_thread(_survey, self._state_dir, self._record)
                self._out_of_memory_kills = exits.out_of_memory_kills()

    async def terminate(self, grace: float) -> Ended:
        """End the engine with everything that belongs to it, and return when nothing is left of it.

        The leader is asked with SIGTERM and has `grace` seconds; then its whole tree is killed, orphans and those that
        went into other sessions included. Shared memory only they used is removed, and so are the engine's record and
        its hold on its port. A second call joins the first, and cuts its time short if its own is over earlier.
        """
        if self._ending is None:
            self._ending = self._loop.create_task(self._end(grace), name=f"end {self._record.id}")
        elif not self.exited.done():
            self._loop.call_later(max(0.0, grace), self._signal, signal.SIGKILL)
        ended = await asyncio.shield(self._ending)
        if ended.left:
            self._ending = None  # whoever wants may try again
        return ended

    def detach(self) -> None:
        """Stop watching and leave the engine running, for another node process to adopt."""
        self._watcher.cancel()
        self._close()
        if self._reservation is not None:
            self._reservation.release()

    async def _end(self, grace: float) -> Ended:
        begun = self._loop.time()
        asked = not self.exited.done() and grace > 0
        await self.survey()
        if asked:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process takes notice of no other
            await asyncio.wait({self.exited}, timeout=grace)
        async with self._surveying:
            settle = _SETTLE if asked and self.exited.done() else 0.0
            killed, left, segments = await asyncio.to_thread(_clean_up, self._record, settle)
            if not left:
                await self.exited
                self._ended = True
                await asyncio.to_thread(record.forget, self._state_dir, self._record.id)
                if self._reservation is not None:
                    self._reservation.release()
        return Ended(
            exit=self.exited.result() if self.exited.done() else None,
            killed=killed,
            left=left,
            segments=segments,
            seconds=self._loop.time() - begun,
        )

    async def _watch(self) -> None:
        pause = _FIRST_SURVEY
        while not self.exited.done():
            await asyncio.wait({self.exited}, timeout=pause)
            # After the leader's end as well: what it left behind may be gone by the time somebody cleans up.
            await self.survey()
            pause = min(pause * 1.5, _LAST_SURVEY)

    def _on_exit(self) -> None:
        status = None if self.adopted else exits.child_status(self._pidfd)
        status = status or exits.stranger_status(self._pidfd, self._leader)
        short = exits.out_of_memory_kills() > self._out_of_memory_kills
        self._close()
        self.exited.set_result(msgspec.structs.replace(status, out_of_memory=short))

    def _close(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and we are about to hear of it
                signal.pidfd_send_signal(self._pidfd, number)


async def end_leftovers(rec: Record, state_dir: Path, grace: float = 10.0) -> Ended:
    """End an engine that will not be adopted, alive or not, with everything that is left of it.

    Processes are told by `rec` alone, so that those of other engines and programs are safe.
    """
    adoption = await EngineProcess.adopt(rec, state_dir)
    if adoption.process is not None:
        return await adoption.process.terminate(grace)
    begun = time.monotonic()
    if rec.boot != tree.boot_id():
        rec = msgspec.structs.replace(rec, leader=None, members=(), segments=())
    killed, left, segments = await asyncio.to_thread(_clean_up, rec, 0.0)
    if not left:
        await asyncio.to_thread(record.forget, state_dir, rec.id)
    return Ended(exit=None, killed=killed, left=left, segments=segments, seconds=time.monotonic() - begun)


def _recognise(rec: Record, spec: EngineSpec | None) -> tuple[int | None, str]:
    """Return a pidfd for the engine of `rec`, or None and the reason why it is not to be had."""
    if rec.leader is None:
        return None, "the node process died while it was starting the engine"
    if rec.boot != tree.boot_id():
        return None, "the machine was restarted since"
    found = tree.process(rec.leader.pid)
    if found is None or (found.ident == rec.leader and not found.alive):
        return None, f"its process {rec.leader.pid} is gone"
    # A process that renamed itself shows no marker, so only another one tells against it.
    if found.ident != rec.leader or (tree.marker_of(rec.leader.pid) or rec.marker) != rec.marker:
        return None, f"process {rec.leader.pid} is another one now ({found.name})"
    if spec is not None and (changed := rec.changed(spec)):
        return None, f"its configuration has changed: {', '.join(changed)}"
    pidfd = tree.open_process(rec.leader)
    return pidfd, "" if pidfd is not None else f"its process {rec.leader.pid} is gone"


def _survey(state_dir: Path, rec: Record) -> Record:
    """Return `rec` with the processes and the shared memory of this moment, and keep it on disk if that is news."""
    found = tree.members(rec.leader, rec.marker, rec.members)
    there = set(shm.segments())
    segments = {segment for segment in rec.segments if segment in there} | shm.used_by(p.pid for p in found)
    new = msgspec.structs.replace(
        rec, members=tuple(sorted(p.ident for p in found)), segments=tuple(sorted(segments))
    )
    # One that is missing could not be written before: the disk was full.
    if new != rec or not record.record_path(state_dir, rec.id).exists():
        record.keep(state_dir, new)
    return new


def _clean_up(rec: Record, settle: float) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Kill what is left of an engine. Returns processes killed and left, and shared memory removed."""
    known = set(rec.members)
    segments = set(rec.segments)

    def find() -> list[tree.Process]:
        found = tree.members(rec.leader, rec.marker, known)
        if new := {p for p in found if p.ident not in known}:
            segments.update(shm.used_by(p.pid for p in new))
            known.update(p.ident for p in new)
        return found

    killed, left = tree.end(find, settle)
    removed = [] if left else shm.remove_unused(segments)
    if rec.part is not None:
        executor(rec.part.executor).clean_up()
    return tuple(killed), tuple(left), tuple(removed)
