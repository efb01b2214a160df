"""The running engine: drives the scheduler in real time and turns its steps into tokens and text.

One instance per process, on one asyncio loop. The HTTP side hands in `Generation`s and reads an `Outbox`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from shoal.sim import text
from shoal.sim.detokenizer import Detokenizer
from shoal.sim.generation import EngineDeadError, Generation, Outbox, Sampling
from shoal.sim.metrics import Metrics
from shoal.sim.scheduler import Request, Scheduler, Step

# A driver that is later than this does not hurry to catch up (the process was stopped, or the machine is overloaded).
_MAX_LAG = 0.05
_ORDER_KEPT = 1000


class Lockstep(Protocol):
    """Others without whom no step ends; see `shoal.sim.group.Leader`."""

    def begin(self) -> None:
        """Hand them a step."""

    def done(self, then: Callable[[], None]) -> bool:
        """Return whether all have done it; if not, `then` is called once they have."""


class Engine:
    """Runs generations through a scheduler in real time.

    Args:
        scheduler: decides who gets what; owned by the engine from now on.
        metrics: where everything is counted.
        salt: makes a deterministic model of its own.
        time_scale: factor on all durations; 0 does everything at once.
        stream_interval: tokens a stream gathers before it tells of them; the first and the last tell at once.
        clock: seconds, monotonic.
        lockstep: the other processes of the engine, where it spans several.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        metrics: Metrics,
        *,
        salt: str = "",
        time_scale: float = 1.0,
        stream_interval: int = 1,
        clock: Callable[[], float] = time.monotonic,
        lockstep: Lockstep | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.metrics = metrics
        self.slow = 1.0
        self.seen = 0
        self.finished = 0
        self.aborted = 0
        self.order: list[str] = []
        self.dead = False
        self._salt = salt
        self._time_scale = time_scale
        self._stream_interval = stream_interval
        self._clock = clock
        self._lockstep = lockstep
        self._live: dict[Request, Generation] = {}
        self._step: Step | None = None
        self._due = 0.0
        self._timer: asyncio.Handle | None = None
        self._paused = False
        self._frozen: tuple[int, int, float] | None = None
        self._alarm: tuple[int, Callable[[], None]] | None = None

    def generation(
        self,
        name: str,
        prompt: Sequence[int],
        sampling: Sampling,
        outbox: Outbox,
        *,
        streaming: bool = False,
        index: int = 0,
        choice: int = 0,
        priority: int = 0,
        cache_salt: str | None = None,
        pooling: bool = False,
    ) -> Generation:
        """Prepare an answer to `prompt`; `choice` tells the answers to one prompt apart."""
        return Generation(
            request=Request(
                id=name,
                tokens=list(prompt),
                prompt_length=len(prompt),
                max_length=len(prompt) + sampling.max_tokens,
                priority=priority,
                cache_salt=cache_salt,
            ),
            sampling=sampling,
            outbox=outbox,
            streaming=streaming,
            index=index,
            continuation=text.Continuation(prompt, self._salt, choice),
            detokenizer=Detokenizer(
                prompt, sampling.stop, include_stop=sampling.include_stop, min_tokens=sampling.min_tokens
            ),
            pooling=pooling,
        )

    @property
    def open(self) -> int:
        """Requests that are not over."""
        return len(self._live)

    def page(self) -> str:
        """Return the text of ``GET /metrics``. A hung engine reports its last numbers for ever, as vLLM's does."""
        running, waiting, usage = self._frozen or self._gauges()
        return self.metrics.render(
            running=running,
            waiting=waiting,
            kv_usage=usage,
            queries=self.scheduler.pool.queries,
            hits=self.scheduler.pool.hits,
            preemptions=self.scheduler.preemptions,
        )

    def _gauges(self) -> tuple[int, int, float]:
        return len(self.scheduler.running), self.scheduler.waiting, self.scheduler.pool.usage

    def submit(self, generation: Generation) -> None:
        """Start working on an answer.

        Raises:
            EngineDeadError: the engine core has died.
            ValueError: the request can never fit the KV cache.
        """
        if self.dead:
            raise EngineDeadError
        generation.arrived = self._clock()
        self.scheduler.add(generation.request)
        self.seen += 1
        self._live[generation.request] = generation
        if self._step is None and not self._paused:
            self._begin()

    def abort(self, generation: Generation) -> None:
        """Stop working on an answer; nothing happens if it is over already."""
        if self.scheduler.finish(generation.request):
            self._live.pop(generation.request, None)
            generation.finish_reason = "abort"
            self.aborted += 1
            self.metrics.success["abort"] += 1

    def pause(self) -> None:
        """Stop making progress, with everything left as it is: what a hung engine core looks like."""
        self._paused = True
        self._frozen = self._frozen or self._gauges()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._paused and not self.dead:
            self._paused = False
            self._frozen = None
            if self._step is not None:
                self._timer = asyncio.get_running_loop().call_soon(self._end)
            else:
                self._begin()

    def die(self) -> None:
        """Lose the engine core: open requests fail as they do in vLLM, new ones too."""
        self.pause()
        self.dead = True
        for generation in list(self._live.values()):
            self.scheduler.finish(generation.request)
            generation.outbox.fail(EngineDeadError())
        self._live.clear()

    def call_after_tokens(self, tokens: int, action: Callable[[], None]) -> None:
        """Call `action` once `tokens` more tokens were generated; a later call takes the place of an earlier one."""
        self._alarm = (self.metrics.generation_tokens + tokens, action)

    def cancel_alarm(self) -> None:
        """Forget `call_after_tokens`."""
        self._alarm = None

    def _begin(self) -> None:
        step = self.scheduler.schedule()
        self._step = step
        if step is None:
            self._due = 0.0
            return
        if self._lockstep is not None:
            self._lockstep.begin()
        now = self._clock()
        for request in step.started:
            generation = self._live[request]
            if not generation.scheduled:
                generation.scheduled = now
                self._remember(request.id)
        # Steps follow each other on a timetable of their own, so that late timers do not add up.
        start = self._due if self._due and now - self._due < _MAX_LAG else now
        self._due = start + step.duration * self._time_scale * self.slow
        loop = asyncio.get_running_loop()
        delay = self._due - now
        self._timer = loop.call_later(delay, self._end) if delay > 0 else loop.call_soon(self._end)

    def _remember(self, name: str) -> None:
        self.order.append(name)
        if len(self.order) > 2 * _ORDER_KEPT:
            del self.order[:-_ORDER_KEPT]

    def _end(self) -> None:
        if self._paused or (self._lockstep is not None and not self._lockstep.done(self._end)):
            return
        step, self._step, self._timer = self._step, None, None
        if step is None:
            return
        ready = self.scheduler.complete(step)
        now = self._clock()
        self.metrics.iteration_tokens.observe(step.prefill_tokens + len(ready))
        for request in ready:
            self._sample(self._live[request], now)
        if self._alarm is not None and self.metrics.generation_tokens >= self._alarm[0]:
            action = self._alarm[1]
            self._alarm = None
            action()
        if not self._paused:
            self._begin()

    def _sample(self, generation: Generation, now: float) -> None:
        request, sampling = generation.request, generation.sampling
        if generation.pooling:
            self._count_prompt(generation, now)
            generation.finish_reason = "stop"
            self._finish(generation, now)
            return
        token = generation.continuation.next(
            eos=not sampling.ignore_eos and generation.count >= sampling.min_tokens
        )
        request.tokens.append(token)
        self._time_token(generation, now)
        stop = None
        ends = token == text.EOS or (
            token in sampling.stop_token_ids and generation.count > sampling.min_tokens
        )
        if ends and not (sampling.include_stop and token != text.EOS):
            generation.detokenizer.skip()
        else:
            stop = generation.detokenizer.push(token)
        if ends:
            generation.finish_reason = "stop"
            generation.stop_reason = None if token == text.EOS else token
        elif stop is not None:
            generation.finish_reason, generation.stop_reason = "stop", stop
        elif generation.count >= sampling.max_tokens:
            generation.finish_reason = "length"
        over = generation.finish_reason is not None
        if generation.streaming:
            generation.news.append((token, generation.detokenizer.take(finished=over)))
            if over or generation.count == 1 or len(generation.news) >= self._stream_interval:
                generation.outbox.put(generation)
        if over:
            self._finish(generation, now)

    def _time_token(self, generation: Generation, now: float) -> None:
        metrics = self.metrics
        metrics.generation_tokens += 1
        if generation.first_token:
            metrics.between_tokens.observe(now - generation.last_token)
        else:
            metrics.first_token.observe(now - generation.arrived)
            self._count_prompt(generation, now)
        generation.last_token = now

    def _count_prompt(self, generation: Generation, now: float) -> None:
        generation.first_token = now
        self.metrics.prompt_tokens += generation.request.prompt_length
        self.metrics.prompt_tokens_cached += generation.request.cached

    def _finish(self, generation: Generation, now: float) -> None:
        self.scheduler.finish(generation.request)
        del self._live[generation.request]
        self.finished += 1
        metrics = self.metrics
        metrics.success[generation.finish_reason or "stop"] += 1
        metrics.request_prompt_tokens.observe(generation.request.prompt_length)
        metrics.request_generation_tokens.observe(generation.count)
        metrics.request_max_tokens.observe(generation.sampling.max_tokens)
        metrics.e2e.observe(now - generation.arrived)
        metrics.queue_time.observe(generation.scheduled - generation.arrived)
        metrics.inference_time.observe(now - generation.scheduled)
        metrics.prefill_time.observe(generation.first_token - generation.scheduled)
        metrics.decode_time.observe(now - generation.first_token)
        if generation.count > 1:
            metrics.per_output_token.observe((now - generation.first_token) / (generation.count - 1))
        generation.outbox.put(generation)
