from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from shoal.sim import text
from shoal.sim.cache import BlockPool
from shoal.sim.engine import Engine
from shoal.sim.generation import EngineDeadError, Generation, Outbox, Sampling
from shoal.sim.metrics import Metrics
from shoal.sim.scheduler import Costs, Scheduler

PROMPT = text.encode("hello")


def make(time_scale: float = 0.0, stream_interval: int = 1, **more: Any) -> Engine:
    scheduler = Scheduler(BlockPool(256, 16), Costs(), **more)
    metrics = Metrics("m", 1000, 256, 16)
    return Engine(scheduler, metrics, time_scale=time_scale, stream_interval=stream_interval)


def generation(engine: Engine, sampling: Sampling | None = None, **more: Any) -> Generation:
    outbox = more.pop("outbox", None) or Outbox()
    return engine.generation("r", more.pop("prompt", PROMPT), sampling or Sampling(5), outbox, **more)


async def finished(one: Generation) -> Generation:
    while one.finish_reason is None:
        await one.outbox.take()
    return one


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within_time() -> None:
        await asyncio.wait_for(test(), 10)

    asyncio.run(within_time())


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def synchronous() -> None:
        run(test)

    synchronous.__name__ = test.__name__
    return synchronous


@asynchronous
async def test_an_answer_is_what_the_model_continues_with() -> None:
    engine = make()
    one = generation(engine)
    engine.submit(one)
    await finished(one)
    continuation = text.Continuation(PROMPT)
    assert one.answer == [continuation.next() for _ in range(5)]
    assert one.detokenizer.text == text.decode(one.answer)
    assert (one.finish_reason, one.prompt, engine.finished, engine.open) == ("length", PROMPT, 1, 0)


@asynchronous
async def test_a_streamed_answer_comes_token_by_token() -> None:
    engine = make()
    one = generation(engine, Sampling(30), streaming=True)
    engine.submit(one)
    ids: list[int] = []
    pieces = ""
    while one.finish_reason is None or one.news:
        await one.outbox.take()
        new, piece = one.take()
        ids += new
        pieces += piece
    assert (ids, pieces) == (one.answer, one.detokenizer.text)


@asynchronous
async def test_a_stream_with_an_interval_tells_of_the_first_token_at_once_and_of_the_rest_in_portions() -> (
    None
):
    engine = make(stream_interval=10)
    one = generation(engine, Sampling(25, ignore_eos=True), streaming=True)
    engine.submit(one)
    portions: list[int] = []
    while one.finish_reason is None or one.news:
        await one.outbox.take()
        portions.append(len(one.take()[0]))
    assert portions == [1, 10, 10, 4]


@asynchronous
async def test_a_part_of_the_news_can_be_taken() -> None:
    engine = make()
    one = generation(engine, streaming=True)
    engine.submit(one)
    for _ in range(20):
        await asyncio.sleep(0)
    assert one.finish_reason == "length"
    assert one.take(2)[0] == one.answer[:2]
    assert one.take()[0] == one.answer[2:]


@asynchronous
async def test_answers_end_as_their_sampling_says() -> None:
    engine = make()
    whole = generation(engine, Sampling(1000))
    engine.submit(whole)
    await finished(whole)
    assert (whole.finish_reason, whole.stop_reason, whole.answer[-1]) == ("stop", None, text.EOS)
    assert whole.detokenizer.text == text.decode(whole.answer[:-1])
    long = generation(engine, Sampling(whole.count + 20, ignore_eos=True))
    engine.submit(long)
    await finished(long)
    assert (long.finish_reason, long.count) == ("length", whole.count + 20)
    word = text.decode(whole.answer[3:5])
    stopped = generation(engine, Sampling(1000, stop=(word,)))
    engine.submit(stopped)
    await finished(stopped)
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", word)
    assert stopped.detokenizer.text == whole.detokenizer.text.partition(word)[0]
    by_token = generation(engine, Sampling(1000, stop_token_ids=frozenset({whole.answer[4]})))
    engine.submit(by_token)
    await finished(by_token)
    assert (by_token.finish_reason, by_token.stop_reason) == ("stop", whole.answer[4])
    assert by_token.detokenizer.text == text.decode(whole.answer[: by_token.count - 1])


@asynchronous
async def test_an_answer_has_at_least_min_tokens() -> None:
    engine = make()
    prompt = text.encode("x")
    shortest = generation(engine, Sampling(500), prompt=prompt)
    engine.submit(shortest)
    await finished(shortest)
    longer = generation(engine, Sampling(500, min_tokens=shortest.count + 1), prompt=prompt)
    engine.submit(longer)
    await finished(longer)
    assert longer.count > shortest.count


@asynchronous
async def test_an_aborted_answer_stops_and_is_counted() -> None:
    engine = make(time_scale=1.0)
    one = generation(engine, Sampling(500))
    engine.submit(one)
    await asyncio.sleep(0)
    engine.abort(one)
    engine.abort(one)
    assert (engine.aborted, engine.open, one.finish_reason) == (1, 0, "abort")
    assert engine.metrics.success["abort"] == 1
    assert engine.scheduler.pool.used == 0


@asynchronous
async def test_a_pause_stops_progress_and_freezes_the_gauges() -> None:
    engine = make()
    one = generation(engine, Sampling(50), streaming=True)
    engine.submit(one)
    await one.outbox.take()
    engine.pause()
    before = engine.metrics.generation_tokens
    late = generation(engine)
    engine.submit(late)
    for _ in range(20):
        await asyncio.sleep(0)
    assert engine.metrics.generation_tokens == before
    assert 'num_requests_running{engine="0",model_name="m"} 1.0' in engine.page()
    assert 'num_requests_waiting{engine="0",model_name="m"} 0.0' in engine.page()
    engine.resume()
    await finished(one)
    await finished(late)


@asynchronous
async def test_a_dead_engine_fails_what_is_open_and_what_comes() -> None:
    engine = make(time_scale=1.0)
    one = generation(engine)
    engine.submit(one)
    engine.die()
    with pytest.raises(EngineDeadError, match="EngineCore encountered an issue"):
        await finished(one)
    with pytest.raises(EngineDeadError):
        engine.submit(generation(engine))
    engine.resume()
    assert engine.dead


@asynchronous
async def test_an_action_follows_after_so_many_tokens() -> None:
    engine = make()
    engine.call_after_tokens(3, engine.pause)
    one = generation(engine, Sampling(50), streaming=True)
    engine.submit(one)
    for _ in range(50):
        await asyncio.sleep(0)
    assert one.count == 3
    engine.call_after_tokens(3, engine.pause)
    engine.cancel_alarm()
    engine.resume()
    await finished(one)


@asynchronous
async def test_time_passes_as_the_costs_say() -> None:
    engine = make(time_scale=1.0)
    one = generation(engine, Sampling(50, ignore_eos=True))
    engine.submit(one)
    await finished(one)
    # One step for the prompt and 49 after it, 2 ms and 20 us each; a step may be late, but never early.
    assert 50 * 0.002 <= one.last_token - one.arrived < 2


@asynchronous
async def test_slowness_and_order_are_seen() -> None:
    engine = make(time_scale=0.1, max_num_seqs=1)
    engine.slow = 5.0
    answers = [generation(engine, Sampling(4, ignore_eos=True)) for _ in range(3)]
    for number, one in enumerate(answers):
        one.request.id = str(number)
        engine.submit(one)
    for one in answers:
        await finished(one)
    assert engine.order == ["0", "1", "2"]
    # Four steps, half as long as usual in all; a step may be late, but never early.
    assert answers[0].last_token - answers[0].arrived >= 4 * 0.001


@asynchronous
async def test_a_pooling_request_is_over_with_its_prompt() -> None:
    engine = make()
    one = generation(engine, Sampling(1), pooling=True)
    engine.submit(one)
    await finished(one)
    assert (one.finish_reason, one.count) == ("stop", 0)
    assert (engine.metrics.prompt_tokens, engine.metrics.generation_tokens) == (len(PROMPT), 0)


@asynchronous
async def test_metrics_count_every_token_and_request() -> None:
    engine = make()
    answers = [generation(engine, Sampling(4, ignore_eos=True)) for _ in range(3)]
    for one in answers:
        engine.submit(one)
    for one in answers:
        await finished(one)
    metrics = engine.metrics
    assert metrics.generation_tokens == 12
    assert metrics.prompt_tokens == 3 * len(PROMPT)
    assert metrics.success["length"] == 3
    assert sum(metrics.first_token.counts) == sum(metrics.e2e.counts) == 3
    assert sum(metrics.between_tokens.counts) == 9
    assert metrics.iteration_tokens.total == 3 * len(PROMPT) + 12
