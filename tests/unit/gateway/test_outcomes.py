"""What becomes of requests is counted by model, engine and code, and their times go into histograms."""

from __future__ import annotations

import asyncio
from itertools import accumulate

import pytest

from shoal.gateway import outcomes
from shoal.gateway.counters import NO_MODEL, engine_block, model_block
from shoal.gateway.outcomes import CODES, WIDTH, Histogram, count, count_first, count_gaps, count_whole, read

EVENTS = [b'data: {"n":%d}\n\n' % n for n in range(5)] + [b"data: [DONE]\n\n"]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FULL = b"HTTP/1.1 429 X\r\ncontent-length: 2\r\n\r\n{}"
STREAM = b'{"model":"m","stream":true}'


def cells() -> memoryview:
    return memoryview(bytearray(8 * 3 * WIDTH)).cast("q")


def taken(histogram: Histogram) -> list[tuple[float, int]]:
    """Return the upper bounds of the buckets that have something, and how much."""
    bounds = (*histogram.bounds, float("inf"))
    return [(bound, n) for bound, n in zip(bounds, histogram.counts, strict=True) if n]


def test_every_code_has_one_cell_and_unknown_ones_their_class():
    row = cells()
    statuses = [200, 204, 302, 404, 418, 429, outcomes.CLIENT_GONE, 500, 507]
    for status in statuses:
        for streamed in (False, True):
            count(row, WIDTH, status, streamed, 1)
    got = read(row[WIDTH : 2 * WIDTH]).answers
    names = ["200", "2xx", "3xx", "404", "4xx", "429", "499", "500", "5xx"]
    assert got == {(name, streamed): 1 for name in names for streamed in (False, True)}
    assert set(names) <= set(CODES)
    assert set(row[:WIDTH].tolist()) == set(row[2 * WIDTH :].tolist()) == {0}


def test_the_short_way_counts_the_same():
    one, other = cells(), cells()
    count_whole(one, WIDTH, 300_000_000)
    count(other, WIDTH, 200, False, 300_000_000)
    assert one == other
    assert taken(read(one[WIDTH : 2 * WIDTH]).whole) == [(0.3, 1)], "a bound belongs to its bucket (le)"


def test_refusals_have_no_time():
    row = cells()
    count(row, 0, 503, False, 1)
    assert taken(read(row[:WIDTH]).whole) == []


@pytest.mark.parametrize("seconds", [0.0, 0.0009, 0.5, 3.0, 100_000.0])
def test_times_go_into_the_first_bucket_that_holds_them(seconds):
    row = cells()
    count_first(row, 0, round(seconds * 1e9))
    count_gaps(row, 0, 4, round(4 * seconds * 1e9))
    got = read(row[:WIDTH])
    for histogram, weight in ((got.first, 1), (got.between, 4)):
        above = next((b for b in histogram.bounds if b >= seconds), float("inf"))
        assert taken(histogram) == [(above, weight)]
        assert histogram.total == pytest.approx(weight * seconds, abs=1e-5)
        assert list(accumulate(histogram.counts))[-1] == weight


async def test_an_answer_is_its_engines(stage):
    engine = await stage.engine()
    await stage.open(engine)
    for _ in range(4):  # the last ones by their known heads
        client = stage.clients[-1] if stage.clients else await stage.client()
        assert (await client.request(stage.post())).status == 200
    got = stage.metrics.outcome(engine_block(0))
    assert got.answers == {("200", False): 4}
    assert sum(got.whole.counts) == 4
    assert sum(got.first.counts) == 0
    engine.behave = stage.answer(FULL)
    assert (await stage.request(stage.post())).status == 429
    assert stage.metrics.outcome(engine_block(0)).answers[("429", False)] == 1


async def test_what_no_engine_has_answered_is_the_models_or_nobodys(stage):
    await stage.open(await stage.dead_engine())
    assert (await stage.request(stage.post())).status == 503
    assert (await stage.request(stage.post(b'{"model":"x"}'))).status == 404
    assert stage.metrics.outcome(model_block(0)).answers == {("503", False): 1}
    assert stage.metrics.outcome(NO_MODEL).answers == {("404", False): 1}
    assert stage.metrics.outcome(engine_block(0)).answers == {}


async def test_a_retried_request_is_counted_once_where_it_was_answered(stage):
    await stage.open(await stage.dead_engine(), await stage.engine())
    assert (await stage.request(stage.post())).status == 200
    assert stage.metrics.outcome(engine_block(0)).answers == {}
    assert stage.metrics.outcome(engine_block(1)).answers == {("200", False): 1}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("together", [False, True])
async def test_a_stream_has_a_first_event_and_gaps(stage, path, together):
    async def behave(connection, _):
        await connection.send(HEAD)
        chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS]
        await asyncio.sleep(0.02)
        for part in [b"".join(chunks)] if together else chunks:
            await connection.send(part)
            await asyncio.sleep(0.02)
        await connection.send(b"0\r\n\r\n")

    await stage.open(await stage.engine(behave), resume="off")
    assert (await stage.request(stage.post(STREAM, path))).complete
    got = stage.metrics.outcome(engine_block(0))
    assert got.answers == {("200", True): 1}
    assert sum(got.first.counts) == 1
    assert 0.015 <= got.first.total <= got.whole.total
    assert sum(got.between.counts) == len(EVENTS) - 2
    assert got.between.total == pytest.approx(got.whole.total - got.first.total, abs=0.01)


async def test_a_client_that_leaves_is_counted_and_what_it_got_too(stage):
    async def behave(connection, _):
        await connection.send(HEAD)
        for event in EVENTS[:4]:
            await connection.send(b"%x\r\n%b\r\n" % (len(event), event))
        await connection.wait_closed()

    await stage.open(await stage.engine(behave), resume="off")
    client = await stage.client()
    await client.send(stage.post(STREAM))
    await client.reader.readuntil(b'{"n":3}')
    client.reset()
    await stage.until(lambda: stage.metrics.outcome(engine_block(0)).answers)
    got = stage.metrics.outcome(engine_block(0))
    assert got.answers == {("499", True): 1}
    assert sum(got.first.counts) == 1
    assert sum(got.between.counts) == 2
    assert sum(got.whole.counts) == 0, "it has no end to be timed"
