"""A canary's trial: does it answer as the engines that serve already, and do its clients wait as long as theirs?

What `shoal apply` asks of every new engine is whether it works at all (`shoal.node.canary`). Whoever rolls out another
form of the same model (quantised, pruned, distilled) asks more, and says how much in `Terms`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec

from shoal.cluster.view import EngineReport
from shoal.engine.probe import Probe, ProbeError
from shoal.node.latencies import Latencies, Latency, Waits, since, together
from shoal.node.seen import LOOK_EVERY, NotGoodError

# Fewer of a kind on one side say nothing of the other.
_LEAST_ANSWERS, _LEAST_EVENTS = 5, 40

Others = Callable[[], Sequence[tuple[str, EngineReport]]]
"""Returns full id and report of engines that serve the model in its former form."""


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of a canary.

    Attributes:
        prompts: beginnings of texts; the likeliest next token of each is compared.
        agreement: least share of them at which both say the same, 0 to 1.
        slower: by which factor its clients may wait longer.
        watch: seconds for which it serves beside the others before it is judged by that.
    """

    prompts: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    agreement: Annotated[float, msgspec.Meta(ge=0, le=1)]
    slower: Annotated[float, msgspec.Meta(gt=0)]
    watch: Annotated[float, msgspec.Meta(ge=0)]


class Trial:
    """Tries one engine.

    Args:
        terms: what is asked.
        others: see `Others`.
        probe: returns what asks an engine, past all gateways.
        latencies: returns what clients of engines have waited for, on all nodes.
        say: takes sentences about it.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        others: Others,
        probe: Callable[[EngineReport], Probe],
        latencies: Callable[[], Awaitable[Latencies]],
        say: Callable[[str], None],
    ) -> None:
        self._terms = terms
        self._others = others
        self._probe = probe
        self._latencies = latencies
        self._say = say
        self._asked: tuple[float, float] = (0.0, 0.0)

    async def answers(self, name: str, engine: EngineReport) -> None:
        """Compare its answers with those of another engine. To be called before it gets any request.

        Raises:
            NotGoodError: they agree too little, or there is nothing to compare with.
        """
        others = self._others()
        if not others:
            raise NotGoodError("no other engine serves the model, so there is nothing to compare with")
        other, report = others[0]
        try:
            async with self._probe(engine) as new, self._probe(report) as former:
                pairs = [(await _timed(new, p), await _timed(former, p)) for p in self._terms.prompts]
        except (ProbeError, OSError) as error:
            raise NotGoodError(f"its answers cannot be compared with those of {other}: {error}") from None
        self._asked = (
            statistics.median(a[1] for a, _ in pairs),
            statistics.median(b[1] for _, b in pairs),
        )
        same = sum(a[0] == b[0] for a, b in pairs)
        share = same / len(pairs)
        told = f"says the same next word as {other} after {same} of {len(pairs)} beginnings ({100 * share:.0f} %)"
        if share < self._terms.agreement:
            raise NotGoodError(
                f"engine {name} {told}, at least {100 * self._terms.agreement:.0f} % are asked"
            )
        self._say(f"canary: engine {name} {told}")

    async def live(self, name: str, works: Callable[[], bool]) -> None:
        """Watch it serve beside the others. To be called when it has begun to get requests.

        Args:
            name: its full id.
            works: returns whether it still does.

        Raises:
            NotGoodError: its clients wait too long.
        """
        self._say(f"canary: engine {name} serves beside the others for {self._terms.watch:g} s")
        before = await self._latencies()
        end = time.monotonic() + self._terms.watch
        while time.monotonic() < end:
            if not works():
                raise NotGoodError(f"engine {name} does not work any more after it was ready")
            await asyncio.sleep(LOOK_EVERY)
        after = await self._latencies()
        others = [other for other, _ in self._others()]
        found = list(compared(_added(before, after, [name]), _added(before, after, others)))
        if not found:
            found = [("an answer to a single question (no clients to speak of came)", *self._asked)]
        for what, new, former in found:
            told = f"{what} takes {_ms(new)} with engine {name} and {_ms(former)} with the others"
            if new > self._terms.slower * former:
                times = new / former if former else float("inf")
                raise NotGoodError(
                    f"{told}: {times:.1f} times as long, at most {self._terms.slower:g} is asked"
                )
            self._say(f"canary: {told}")


def compared(new: Latency, others: Latency) -> Iterator[tuple[str, float, float]]:
    """Yield what can be compared: what for people, mean seconds of the new engine, mean seconds of the others.

    Whole answers are compared only where there were too few streams: they are as long as what was asked for.
    """
    streams = False
    for what, a, b, least in (
        ("the next event of a stream", new.between, others.between, _LEAST_EVENTS),
        ("the first event of a stream", new.first, others.first, _LEAST_ANSWERS),
    ):
        if _enough(a, b, least):
            streams = True
            yield what, a.mean, b.mean
    if not streams and _enough(new.whole, others.whole, _LEAST_ANSWERS):
        yield "an answer", new.whole.mean, others.whole.mean


def _enough(a: Waits, b: Waits, least: int) -> bool:
    return min(a.count, b.count) >= least


def _added(before: Latencies, after: Latencies, engines: Sequence[str]) -> Latency:
    def of(latencies: Mapping[str, Latency], engine: str) -> Latency:
        return latencies.get(engine, Latency())

    return together(since(of(before, engine), of(after, engine)) for engine in engines)


async def _timed(probe: Probe, prompt: str) -> tuple[str, float]:
    begun = time.monotonic()
    return await probe.complete(prompt, 1), time.monotonic() - begun


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
