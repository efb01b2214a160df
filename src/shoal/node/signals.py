"""Signals of the node process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


class Signals:
    """SIGINT and SIGTERM as futures: the first asks for a graceful stop, the second for one at once. SIGHUP reloads.

    SIGUSR2, another future, asks for a graceful stop of everything but the engines: the next process goes on with them.
    """

    def __init__(self, on_reload: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, on_reload)
        self.first: asyncio.Future[None] = loop.create_future()
        self.second: asyncio.Future[None] = loop.create_future()
        self.hand_over: asyncio.Future[None] = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR2, self._handed_over)
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._came)

    def _came(self) -> None:
        waiting = next((f for f in (self.first, self.second) if not f.done()), None)
        if waiting is not None:
            waiting.set_result(None)

    def _handed_over(self) -> None:
        if not self.hand_over.done():
            self.hand_over.set_result(None)
