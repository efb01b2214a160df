"""The connection to one peer: made, watched, made anew."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from shoal.transport.contract import Answer, Call, CarrierError
from shoal.transport.quic.asking import Asking, Greeting
from shoal.transport.quic.frames import Hello
from shoal.transport.quic.link import Link

_CONNECT = 2.0  # s for handshake and greeting
_PING_EVERY = 0.75  # s between two looks at whether the peer is there
_PING_WITHIN = 2.0  # s for its answer: a lost one is sent again within a round trip or two
_AGAIN_FIRST, _AGAIN_MOST = 0.2, 3.0  # s until the next attempt
_FIRST_WORD = 3.0  # s after the start for which "not yet" is no trouble to tell of


class Peer:
    """A node that calls go to.

    Args:
        name: of the node.
        connect: begins a connection.
        own: who we are.
    """

    def __init__(self, name: str, connect: Callable[[], Link], own: Hello) -> None:
        self.name = name
        self._connect = connect
        self._own = own
        self._link: Link | None = None
        self._incarnation = 0  # of the relay that the link leads to
        self._since = asyncio.get_running_loop().time()
        self._trouble: str | None = ""
        self._now = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    @property
    def trouble(self) -> str | None:
        """Why calls cannot be carried, None where they can; "" while that is not known yet."""
        if self._link is not None and self._link.over is not None:
            return f"the QUIC connection was lost: {self._link.over}"
        return self._trouble

    async def call(self, call: Call) -> Answer:
        """See `Carrier`."""
        link = self._link
        if link is None or link.over is not None:
            raise CarrierError(f"there is no connection to {self.name}: {self.trouble}", unsent=True)
        return await Asking(link).ask(call)

    def heard(self, incarnation: int) -> None:
        """The peer has connected to us; a relay that started after our connection was made does not know that one."""
        self._now.set()
        if self._link is not None and incarnation > self._incarnation:
            self._link.close("the peer's relay has been replaced", tell=False)

    def close(self) -> None:
        """End the connection and make no more."""
        self._task.cancel()
        if self._link is not None:
            self._link.close("the relay ends")

    async def _keep(self) -> None:
        again = _AGAIN_FIRST
        while True:
            link = None
            try:
                link = self._connect()
                async with asyncio.timeout(_CONNECT):
                    await link.up
                    hello = await Greeting(link).greet(self._own)
            except OSError as error:  # a time-out and a lost connection among them
                self._give_up(link, f"no QUIC connection to its UDP port: {str(error) or 'no answer'}")
            else:
                self._link, self._incarnation, self._trouble = link, hello.incarnation, None
                again = _AGAIN_FIRST
                await self._watch(link)
            self._now.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._now.wait(), again * random.uniform(0.75, 1.25))
            again = min(2 * again, _AGAIN_MOST)

    async def _watch(self, link: Link) -> None:
        """Return when the connection is gone."""
        while True:
            try:
                async with asyncio.timeout(_PING_WITHIN):
                    await link.ping()
            except TimeoutError:
                self._give_up(link, f"its UDP port has not answered for {_PING_WITHIN:g} s")
                return
            except ConnectionError as error:
                self._give_up(link, f"the QUIC connection was lost: {error}")
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.gone.wait(), _PING_EVERY)

    def _give_up(self, link: Link | None, why: str) -> None:
        early = asyncio.get_running_loop().time() - self._since < _FIRST_WORD
        if self._trouble != "" or not early:
            self._trouble = why
        self._link = None
        if link is not None:
            link.close(why)
