"""What a canary is asked and compared by, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import pytest

from shoal.cluster.view import EngineReport, EngineState
from shoal.engine.probe import ProbeError
from shoal.gateway.outcomes import Histogram, Outcome
from shoal.node.latencies import LATENCIES, Latency, Waits, all_latencies, handlers, since, together
from shoal.node.seen import NotGoodError
from shoal.node.trial import Terms, Trial, compared

NEW, OLD, OLDER = "a:1/m-0", "b:1/m-0", "c:1/m-0"
TERMS = Terms(prompts=("one", "two", "three", "four"), agreement=0.75, slower=1.5, watch=0.0)


class Asked:
    """Stands in for a probe."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers = answers

    async def __aenter__(self) -> Asked:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        pass

    async def complete(self, prompt: str, max_tokens: int) -> str:
        assert max_tokens == 1
        if prompt not in self.answers:
            raise ProbeError("answered /v1/completions with 404: no such route", 404)
        return self.answers[prompt]


def report(engine: str) -> EngineReport:
    return EngineReport(
        id="m-0", kind="sim", model="m", state=EngineState.READY, host=engine.partition(":")[0], port=1
    )


def trial(
    new: Mapping[str, str],
    former: Mapping[str, str],
    looks: list[dict[str, Latency]] | None = None,
    others: tuple[str, ...] = (OLD, OLDER),
) -> tuple[Trial, list[str]]:
    said: list[str] = []
    waits = iter(looks or [])

    async def latencies() -> dict[str, Latency]:
        return next(waits)

    def probe(engine: EngineReport) -> Any:
        return Asked(new if engine.host == "a" else former)

    def serving() -> list[tuple[str, EngineReport]]:
        return [(name, report(name)) for name in others]

    made = Trial(TERMS, others=serving, probe=probe, latencies=latencies, say=said.append)
    return made, said


SAYS = dict.fromkeys(TERMS.prompts, "word")


@pytest.mark.parametrize(("differ", "good"), [(0, True), (1, True), (2, False), (4, False)])
def test_answers_must_agree_as_often_as_is_asked(differ: int, good: bool) -> None:
    made, said = trial(SAYS | dict.fromkeys(TERMS.prompts[:differ], "other"), SAYS)
    if good:
        asyncio.run(made.answers(NEW, report(NEW)))
        assert f"as {OLD} after {4 - differ} of 4 beginnings" in said[0]
    else:
        with pytest.raises(NotGoodError, match="at least 75 % are asked"):
            asyncio.run(made.answers(NEW, report(NEW)))


def test_what_cannot_be_compared_is_not_good() -> None:
    with pytest.raises(NotGoodError, match="no other engine serves the model"):
        asyncio.run(trial(SAYS, SAYS, others=())[0].answers(NEW, report(NEW)))
    with pytest.raises(NotGoodError, match=r"cannot be compared with those of b:1/m-0: answered .* 404"):
        asyncio.run(trial({}, SAYS)[0].answers(NEW, report(NEW)))


def streams(count: int, first: float, between: float) -> Latency:
    return Latency(
        Waits(count, count * first),
        Waits(50 * count, 50 * count * between),
        Waits(count, count * 50 * between),
    )


BEFORE = {NEW: streams(100, 9, 9), OLD: streams(10, 0.1, 0.01), OLDER: Latency()}


@pytest.mark.parametrize(
    ("first", "between", "wrong"),
    [
        (0.1, 0.014, None),
        (0.1, 0.016, "the next event of a stream takes 16 ms .* and 10 ms .*: 1.6 times as long"),
        (0.2, 0.01, "the first event of a stream takes 200 ms .* and 100 ms .*: 2.0 times as long"),
    ],
)
def test_clients_must_not_wait_longer_than_is_asked(first: float, between: float, wrong: str | None) -> None:
    # What an engine of that name was like before it became the canary does not count.
    after = {
        NEW: together([BEFORE[NEW], streams(8, first, between)]),
        OLD: together([BEFORE[OLD], streams(4, 0.1, 0.01)]),
        OLDER: streams(4, 0.1, 0.01),
    }
    made, said = trial(SAYS, SAYS, [BEFORE, after])
    if wrong is None:
        asyncio.run(made.live(NEW, lambda: True))
        assert len(said) == 3
    else:
        with pytest.raises(NotGoodError, match=wrong):
            asyncio.run(made.live(NEW, lambda: True))


def test_without_clients_the_questions_are_compared() -> None:
    made, said = trial(SAYS, SAYS, [BEFORE, BEFORE])
    made._terms = Terms(TERMS.prompts, 0.5, slower=1e9, watch=0.0)

    async def both() -> None:
        await made.answers(NEW, report(NEW))
        await made.live(NEW, lambda: True)

    asyncio.run(both())
    assert "no clients to speak of" in said[-1]


def test_an_engine_that_dies_meanwhile_is_not_good() -> None:
    made, _ = trial(SAYS, SAYS, [BEFORE, BEFORE])
    made._terms = Terms(TERMS.prompts, 0.5, slower=2, watch=60.0)
    with pytest.raises(NotGoodError, match="does not work any more"):
        asyncio.run(made.live(NEW, lambda: False))


def test_few_say_nothing_and_whole_answers_count_where_there_are_no_streams() -> None:
    assert list(compared(streams(4, 9, 9), streams(100, 1, 1))) == [("the next event of a stream", 9, 1)]
    plain, others = Latency(whole=Waits(5, 10.0)), Latency(whole=Waits(50, 50.0))
    assert list(compared(plain, others)) == [("an answer", 2.0, 1.0)]
    assert list(compared(Latency(whole=Waits(4, 10.0)), others)) == []


def test_nodes_tell_what_their_gateways_counted_and_it_is_added_up() -> None:
    def histogram(count: int, total: float) -> Histogram:
        return Histogram((1.0,), (count, 1), total)

    outcome = Outcome({}, histogram(1, 2.0), histogram(3, 4.0), histogram(5, 6.0))
    tell = handlers(lambda: [("m", OLD, outcome), ("m", "", outcome)])["GET", LATENCIES]
    asked: list[str] = []

    async def ask(node: str) -> Any:
        asked.append(node)
        return await tell({})

    found = asyncio.run(all_latencies(["x", "y"], ask))
    assert asked == ["x", "y"]
    assert found == {OLD: Latency(Waits(4, 4.0), Waits(8, 8.0), Waits(12, 12.0))}
    assert since(found[OLD], found[OLD]) == Latency()

    async def nonsense(_: str) -> Any:
        return {OLD: 3}

    with pytest.raises(NotGoodError, match="node x told no latencies"):
        asyncio.run(all_latencies(["x"], nonsense))
