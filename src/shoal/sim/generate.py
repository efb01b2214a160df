"""Answers requests for text: hands them to the engine and sends what comes out, with the faults that strike here."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.sim.call import JSON, Call
from shoal.sim.engine import Engine
from shoal.sim.errors import ApiError
from shoal.sim.faults import Fault, FaultBoard
from shoal.sim.generation import ClientGoneError, EngineDeadError, Generation, Outbox, Sampling
from shoal.sim.openai import TextRequest
from shoal.sim.pooling import PoolingRequest
from shoal.sim.render import Renderer

_BUSY = (
    "The engine is currently busy and cannot accept new requests. "
    "Please try again later or on a different instance."
)


class Generator:
    """Runs requests on an engine.

    Args:
        engine: does the work.
        board: ``cut`` faults are taken from it.
        max_queued: open requests at most (vLLM's ``--max-num-queued-reqs``); None for no limit.
    """

    def __init__(self, engine: Engine, board: FaultBoard, max_queued: int | None = None) -> None:
        self._engine = engine
        self._board = board
        self._max_queued = max_queued

    async def text(self, call: Call, request: TextRequest, renderer: Renderer) -> None:
        """Answer a request for text.

        Raises:
            ApiError: it cannot be taken; nothing was sent yet.
        """
        outbox = Outbox()
        generations = self._generations(request, outbox)
        cut = self._board.use("cut")
        with _Submitted(self._engine, call, generations, outbox, self._max_queued):
            if request.stream:
                await self._stream(call, renderer, generations, outbox, cut)
            else:
                await self._collect(outbox, len(generations))
                if cut is not None:
                    await _cut(call, cut)
                else:
                    await call.respond(200, renderer.full(generations), (JSON,))

    async def pooling(self, call: Call, request: PoolingRequest) -> None:
        """Do the work of a pooling request; the answer is left to the caller.

        Raises:
            ApiError: it cannot be taken.
        """
        outbox = Outbox()
        generations = [
            self._engine.generation(
                request.id, prompt, Sampling(max_tokens=1), outbox, index=index, pooling=True
            )
            for index, prompt in enumerate(request.prompts)
        ]
        with _Submitted(self._engine, call, generations, outbox, self._max_queued):
            await self._collect(outbox, len(generations))

    def _generations(self, request: TextRequest, outbox: Outbox) -> list[Generation]:
        several = len(request.prompts) * request.n > 1
        self._engine.metrics.request_n.observe(request.n)
        return [
            self._engine.generation(
                f"{request.id}-{number * request.n + choice}" if several else request.id,
                prompt,
                sampling,
                outbox,
                streaming=request.stream,
                index=number * request.n + choice,
                choice=choice,
                priority=request.priority,
                cache_salt=request.cache_salt,
            )
            for number, (prompt, sampling) in enumerate(zip(request.prompts, request.samplings, strict=True))
            for choice in range(request.n)
        ]

    @staticmethod
    async def _collect(outbox: Outbox, expected: int) -> None:
        finished = 0
        try:
            while finished < expected:
                finished += len(await outbox.take())
        except EngineDeadError as error:
            raise ApiError(str(error), 500) from error

    async def _stream(
        self,
        call: Call,
        renderer: Renderer,
        generations: Sequence[Generation],
        outbox: Outbox,
        cut: Fault | None,
    ) -> None:
        await call.start_stream()
        opening: bytes | None = None
        left = len(generations)
        sent = [0] * left
        total = 0
        try:
            while left:
                if cut is not None and total >= cut.after_tokens:
                    await _cut(call, cut)
                    return
                for generation in await outbox.take():
                    ids, piece = generation.take(None if cut is None else cut.after_tokens - total)
                    total += len(ids)
                    sent[generation.index] += len(ids)
                    if opening is None:
                        opening = renderer.start(generations)
                        if opening:
                            await call.send(opening)
                    data = renderer.delta(generation, ids, piece, sent[generation.index])
                    if data:
                        await call.send(data)
                    if generation.finish_reason is not None and not generation.news:
                        left -= 1
                    if cut is not None and total >= cut.after_tokens:
                        break
            if cut is not None:
                await _cut(call, cut)
            else:
                await call.end_stream(renderer.end(generations))
        except EngineDeadError as error:
            # What a real vLLM sends when its engine core dies: an error inside the stream, and a clean end.
            await call.end_stream(renderer.error(str(error)))


class _Submitted:
    """Keeps generations in the engine as long as their client is there and their handler runs."""

    def __init__(
        self,
        engine: Engine,
        call: Call,
        generations: Sequence[Generation],
        outbox: Outbox,
        max_queued: int | None,
    ) -> None:
        self._engine = engine
        self._connection = call.connection
        self._generations = generations
        self._outbox = outbox
        self._max_queued = max_queued

    def __enter__(self) -> None:
        engine = self._engine
        limit = self._max_queued
        if limit is not None and engine.open + len(self._generations) > limit:
            engine.metrics.rejections += 1
            raise ApiError(_BUSY, 503)
        if self._connection.lost:
            raise ClientGoneError
        self._connection.on_gone = self._gone
        try:
            for generation in self._generations:
                engine.submit(generation)
        except BaseException as error:
            self.__exit__()
            if isinstance(error, EngineDeadError):
                raise ApiError(str(error), 500) from error
            if isinstance(error, ValueError):
                raise ApiError(str(error)) from error
            raise

    def __exit__(self, *_: object) -> None:
        self._connection.on_gone = None
        self._abort()

    def _abort(self) -> None:
        for generation in self._generations:
            self._engine.abort(generation)

    def _gone(self) -> None:
        self._abort()
        self._outbox.fail(ClientGoneError())


async def _cut(call: Call, fault: Fault) -> None:
    if fault.how == "eof":
        call.connection.end()
    elif fault.how == "reset":
        call.connection.reset()
    await call.client_gone()
    raise ClientGoneError
