from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.engine import record, shm
from shoal.engine.process import end_leftovers
from unit.engine.fakes import Fake


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    fake = Fake(tmp_path)
    yield fake
    for rec in record.read_all(fake.state)[0]:
        asyncio.run(end_leftovers(rec, fake.state, 0))
    for segment in shm.segments():
        if fake.shm_prefix in segment.name:
            (shm.SHM / segment.name).unlink()
