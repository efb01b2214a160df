"""A process that a node starts and talks to over a channel, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import msgspec

from shoal.gateway.channel import Channel, open_end

# A process whose channel has closed is ending; this long it may take. Seconds.
_END = 5.0

Received = TypeVar("Received")


class ChildProcess(Generic[Received]):
    """A process; one life per object.

    Args:
        module: Python runs it; ``--channel-fd`` and the other descriptors are its arguments.
        decoder: of the messages that it sends.
        on_message: called with each of them, in order.
        on_lost: called when the channel has closed: the process is gone or about to go.
        on_end: called when it has ended, with how, as in ``ended with status 1``.
    """

    def __init__(
        self,
        module: str,
        decoder: msgspec.msgpack.Decoder[Received],
        on_message: Callable[[Received], None],
        on_lost: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._module = module
        self._decoder = decoder
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[Received] | None = None
        self._reaping: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._process.pid if self._process else None

    @property
    def reachable(self) -> bool:
        """Its channel is open."""
        return self._channel is not None

    async def start(self, fds: Mapping[str, int], env: Mapping[str, str] | None = None) -> None:
        """Start the process and open the channel.

        Args:
            fds: descriptors that it gets, by option; they stay open here.
            env: its environment; None for the node's own.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            given = {"--channel-fd": theirs.fileno(), **fds}
            command = [sys.executable, "-m", self._module, *(str(w) for pair in given.items() for w in pair)]
            # A session of its own: Ctrl-C on a terminal is the node's to handle.
            self._process = subprocess.Popen(  # noqa: ASYNC220 - forks in a millisecond
                command,
                env=os.environ if env is None else env,
                pass_fds=list(given.values()),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._channel = await open_end(ours, Channel(self._decoder, self._on_message, self._lost))

    def send(self, message: msgspec.Struct) -> None:
        """Tell the process; dropped when it is gone."""
        if self._channel is not None:
            self._channel.send(message)

    def close(self) -> None:
        """Close the channel, which has the process end in good order."""
        if self._channel is not None:
            self._channel.close()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    async def ended(self) -> None:
        """Return when the process is gone."""
        await self._ended.wait()

    def _lost(self, _: Exception | None) -> None:
        self._channel = None
        self._on_lost()
        self._reaping = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        process = self._process
        assert process is not None
        try:
            code = await asyncio.to_thread(process.wait, _END)
        except subprocess.TimeoutExpired:
            process.kill()
            code = await asyncio.to_thread(process.wait)
        self._on_end(f"was killed by signal {-code}" if code < 0 else f"ended with status {code}")
        self._ended.set()
