from __future__ import annotations

import asyncio
import time

import pytest

from shoal.sim.loading import load
from shoal.sim.options import parse


def test_progress_is_told_while_time_passes(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    asyncio.run(
        load(parse(["--load-time", "0.08", "--model", "/m", "--dtype", "auto", "--api-key", "secret"], {}))
    )
    assert time.monotonic() - began >= 0.08
    out = capsys.readouterr().out
    assert "Starting to load model /m..." in out
    assert [line.split("|")[0].strip() for line in out.splitlines() if "shards" in line] == [
        f"Loading safetensors checkpoint shards: {percent:3d}% Completed" for percent in (0, 25, 50, 75, 100)
    ]
    assert "note: ignoring arguments of vLLM: --dtype auto" in out
    assert "secret" not in out
