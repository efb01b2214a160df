"""How engines that are measured are started: all at once, and none is left where one does not get ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from shoal.optimize import measure
from shoal.optimize.errors import OptimizeError


def test_engines_start_at_the_same_time() -> None:
    async def start() -> list[Any]:
        both = asyncio.Barrier(2)

        @asynccontextmanager
        async def engine(name: str) -> AsyncIterator[Any]:
            await both.wait()  # for ever, if one were started after the other
            yield name

        async with asyncio.timeout(10), AsyncExitStack() as stack:
            return await measure._all(stack, [engine("a"), engine("b")])

    assert asyncio.run(start()) == ["a", "b"]


def test_where_one_does_not_start_the_other_is_ended_before_that_is_told() -> None:
    ended: list[str] = []

    async def start() -> None:
        loading = asyncio.Event()

        @asynccontextmanager
        async def loads() -> AsyncIterator[Any]:
            try:
                loading.set()
                await asyncio.Event().wait()
                yield None
            finally:
                await asyncio.sleep(0)
                ended.append("loads")

        @asynccontextmanager
        async def fails() -> AsyncIterator[Any]:
            await loading.wait()
            raise OptimizeError("vLLM does not serve it")
            yield None

        async with asyncio.timeout(10), AsyncExitStack() as stack:
            try:
                await measure._all(stack, [loads(), fails()])
            finally:
                assert ended == ["loads"]

    with pytest.raises(OptimizeError, match="does not serve it"):
        asyncio.run(start())
