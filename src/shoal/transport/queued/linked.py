"""A broker's connection that comes back by itself: one link after the other."""

from __future__ import annotations

import abc
import asyncio
import random
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

from shoal.transport.contract import CarrierError
from shoal.transport.queued.broker import AwayError, Ear

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # s between attempts to come back


class Link(Protocol):
    """All that is open to a broker; used until it ends, and then replaced.

    Attributes:
        ended: why it is of no use any more.
    """

    ended: asyncio.Future[str]

    async def close(self) -> None:
        """Close all of it, whatever state it is in."""

    async def declare(self, models: Collection[str]) -> None:
        """Make the queues of these models; raises `CarrierError`."""

    def adjust(self) -> None:
        """What this node wants may have changed."""


L = TypeVar("L", bound=Link)


class LinkedBroker(abc.ABC, Generic[L]):
    """What is the same of all brokers. See `shoal.transport.queued.broker.Broker`.

    Args:
        name: of the broker, for people.
        urls: of its hosts, without secrets.
    """

    def __init__(self, name: str, urls: Collection[str]) -> None:
        self._name = name
        self._where = ", ".join(urls)
        self._models: set[str] = set()
        self._link: L | None = None
        self._keeping: asyncio.Task[None] | None = None

    @abc.abstractmethod
    async def _connect(self, ear: Ear, models: Collection[str]) -> L:
        """Return a new link; raises `CarrierError` with what was tried."""

    async def open(self, ear: Ear, models: Collection[str]) -> None:
        """Connect; raises CarrierError with what was tried."""
        self._models |= set(models)
        self._link = await self._connect(ear, self._models)
        self._keeping = asyncio.create_task(self._keep(ear))

    async def close(self) -> None:
        """Give everything back."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def declare(self, models: Collection[str]) -> None:
        """Make the queues of these models."""
        self._models |= set(models)
        await self._present().declare(models)

    def adjust(self) -> None:
        """Look again at what this node wants."""
        if self._link is not None:
            self._link.adjust()

    def _present(self) -> L:
        if self._link is None:
            raise AwayError(f"{self._name} is away ({self._where})")
        return self._link

    async def _keep(self, ear: Ear) -> None:
        """Have a link, for ever."""
        while True:
            link = self._link
            assert link is not None
            why = await asyncio.shield(link.ended)
            self._link = None
            ear.lost(f"{self._name} is away ({self._where}): {why}")
            await link.close()
            pause = _FIRST_PAUSE
            while self._link is None:
                try:
                    self._link = await self._connect(ear, self._models)
                    continue
                except CarrierError:
                    pass
                except asyncio.CancelledError:  # aiormq cancels what waits for a connection that ends
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                except Exception as error:  # clients have many; none of them may be the last attempt
                    ear.notice(f"{self._name} ({self._where}): {error!r}")
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(_LONGEST_PAUSE, pause * 2)
            ear.restored()
