"""One answer in the making, and how its HTTP handler learns of news."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shoal.sim.detokenizer import Detokenizer
from shoal.sim.scheduler import Request
from shoal.sim.text import Continuation


class EngineDeadError(Exception):
    """The engine core is gone; carries vLLM's words."""

    def __init__(self) -> None:
        super().__init__("EngineCore encountered an issue. See stack trace (above) for the root cause.")


class ClientGoneError(Exception):
    """The client closed its connection."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer ends.

    Attributes:
        max_tokens: tokens at most, at least 1.
        min_tokens: no end before this many tokens (stop strings and EOS).
        ignore_eos: go on until `max_tokens`.
        stop: strings that end the answer.
        stop_token_ids: tokens that end it.
        include_stop: keep the stop string or stop token's text.
    """

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False


class Outbox:
    """Where the generations of one HTTP request put what is new, and where its handler waits for it."""

    __slots__ = ("_error", "_ready", "_waiter")

    def __init__(self) -> None:
        self._ready: list[Generation] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def put(self, generation: Generation) -> None:
        """Say that `generation` has something new."""
        if not generation.queued:
            generation.queued = True
            self._ready.append(generation)
            self._wake()

    def fail(self, error: Exception) -> None:
        """End the waiting with `error`; what was put before it is given out first."""
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[Generation]:
        """Wait for news and return who has some, in the order it came.

        Raises:
            Exception: what was given to `fail`.
        """
        while not self._ready:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        ready, self._ready = self._ready, []
        for generation in ready:
            generation.queued = False
        return ready


@dataclass(eq=False, slots=True)
class Generation:
    """One answer in the making.

    Attributes:
        request: its place in the scheduler; `request.tokens` holds prompt and answer.
        sampling: how it ends.
        outbox: whom to tell.
        streaming: tell after every token, not only at the end.
        index: number of the choice in the response.
        pooling: over with the prompt: no token is generated (embeddings and the like).
        news: tokens and the text each made complete, not yet taken (streaming only).
        finish_reason: ``stop``, ``length`` or ``abort`` once it is over.
        stop_reason: the stop string or stop token that ended it.
    """

    request: Request
    sampling: Sampling
    outbox: Outbox
    streaming: bool
    index: int
    continuation: Continuation
    detokenizer: Detokenizer
    pooling: bool = False
    news: list[tuple[int, str]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    queued: bool = False
    arrived: float = 0.0
    scheduled: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0

    @property
    def count(self) -> int:
        """Tokens generated so far."""
        return len(self.request.tokens) - self.request.prompt_length

    @property
    def prompt(self) -> list[int]:
        """Token ids of the prompt."""
        return self.request.tokens[: self.request.prompt_length]

    @property
    def answer(self) -> list[int]:
        """Token ids generated so far."""
        return self.request.tokens[self.request.prompt_length :]

    def take(self, limit: int | None = None) -> tuple[list[int], str]:
        """Take what is new: token ids and text; at most `limit` tokens."""
        taken, self.news = (self.news, []) if limit is None else (self.news[:limit], self.news[limit:])
        return [token for token, _ in taken], "".join([piece for _, piece in taken])
