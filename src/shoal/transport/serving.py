"""The serving end of a relay: gives what a carrier brings to an engine of this node."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from shoal.transport.chunks import Chunks
from shoal.transport.contract import Answer, Call, CarrierError
from shoal.transport.directory import Directory
from shoal.transport.engine_link import EngineLink


class Serving:
    """The `Handler` of a node.

    Args:
        directory: the engines there are.
        link: connections to them.

    Attributes:
        open: calls that each engine has from here, by its id.
        served: calls that an engine has answered.
    """

    def __init__(self, directory: Directory, link: EngineLink) -> None:
        self._directory = directory
        self._link = link
        self.open: Counter[str] = Counter()
        self.served = 0

    def room(self, model: str = "") -> bool:
        """Whether an engine of this node (of `model`, or any) has fewer calls from here than it should have at most."""
        engines = self._directory.local(model)
        return any(not e.capacity or self.open[e.id] < e.capacity for e in engines)

    async def __call__(self, call: Call) -> Answer:
        """Ask the engine that the call names, or one of the same model where it is not of this node.

        Raises:
            CarrierError: none can take the call.
        """
        engine = self._directory.get(call.engine)
        if engine is None or not engine.local:
            others = self._directory.local(call.model) if call.model else []
            if not others:
                raise CarrierError(f"engine {call.engine} is not here", unsent=True)
            engine = min(others, key=lambda e: self.open[e.id])
        self.open[engine.id] += 1
        try:
            answer = await self._link.ask(engine, call)
        except BaseException:
            self.open[engine.id] -= 1
            raise
        self.served += 1
        chunks = _Counted(answer.chunks, self.open, engine.id)
        return Answer(status=answer.status, headers=answer.headers, chunks=chunks, served_by=engine.id)


class _Counted(AsyncIterator[bytes]):
    """A body that counts as open until it ends or is closed."""

    def __init__(self, chunks: AsyncIterator[bytes], count: Counter[str], engine: str) -> None:
        self._chunks = chunks
        self._count = count
        self._engine = engine
        self._over = False

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        try:
            return await self._chunks.__anext__()
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        """Read no more."""
        self._end()
        if isinstance(self._chunks, Chunks):
            await self._chunks.aclose()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._count[self._engine] -= 1
