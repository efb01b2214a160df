"""What a node's records say, and what they are not asked over and over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from shoal.batch.store import Store
from support.batch_rig import Rig
from unit.batch.test_records import RECORD


def with_store(directory: Path, work: Callable[[Store], Awaitable[None]]) -> None:
    store = Store(directory)
    try:
        asyncio.run(work(store))  # type: ignore[arg-type]
    finally:
        store.close()


def test_a_store_knows_when_there_is_certainly_no_open_batch(tmp_path: Path) -> None:
    done = msgspec.structs.replace(RECORD, status="completed")

    async def work(store: Store) -> None:
        assert not store.idle, "nobody has looked yet"
        assert await store.run(store.unfinished) == []
        assert store.idle
        await store.run(store.put, done)
        assert store.idle
        await store.run(store.put, RECORD)
        assert not store.idle
        assert await store.run(store.unfinished) == [RECORD]
        assert not store.idle
        await store.run(store.put, done)
        await store.run(store.unfinished)
        assert store.idle

    with_store(tmp_path, work)


def test_with_nothing_to_do_rounds_ask_the_database_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def work() -> None:
        rig = Rig(tmp_path)
        node = rig["a"]
        await node.rounds(2)
        original = node.library.store.run

        async def run(method: Callable[..., object], *arguments: object) -> object:
            asked.append(method)
            return await original(method, *arguments)

        monkeypatch.setattr(node.library.store, "run", run)
        await node.rounds(20)
        for each in rig.nodes.values():
            await each.kill()

    asyncio.run(work())
    assert asked == []
