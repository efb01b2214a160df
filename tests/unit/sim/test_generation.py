from __future__ import annotations

import asyncio

import pytest

from shoal.sim.detokenizer import Detokenizer
from shoal.sim.generation import ClientGoneError, Generation, Outbox, Sampling
from shoal.sim.scheduler import Request
from shoal.sim.text import Continuation


def make(outbox: Outbox, index: int = 0) -> Generation:
    request = Request("r", [5, 6], 2, 10)
    return Generation(request, Sampling(8), outbox, True, index, Continuation([5, 6]), Detokenizer([5, 6]))


def test_who_has_news_is_told_once_and_in_order() -> None:
    async def scenario() -> None:
        outbox = Outbox()
        first, second = make(outbox, 0), make(outbox, 1)
        for one in (second, first, second):
            outbox.put(one)
        assert await outbox.take() == [second, first]
        outbox.put(first)
        assert await outbox.take() == [first]

    asyncio.run(scenario())


def test_waiting_ends_with_news_or_with_an_error_news_first() -> None:
    async def scenario() -> None:
        outbox = Outbox()
        one = make(outbox)
        waiting = asyncio.ensure_future(outbox.take())
        await asyncio.sleep(0)
        outbox.put(one)
        assert await waiting == [one]
        outbox.put(one)
        outbox.fail(ClientGoneError())
        assert await outbox.take() == [one]
        with pytest.raises(ClientGoneError):
            await outbox.take()

    asyncio.run(scenario())


def test_prompt_and_answer_are_told_apart() -> None:
    one = make(Outbox())
    one.request.tokens += [7, 8]
    assert (one.prompt, one.answer, one.count) == ([5, 6], [7, 8], 2)
