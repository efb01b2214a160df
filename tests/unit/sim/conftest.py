from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.sim import Sim, start


@pytest.fixture(scope="session")
def launch() -> Callable[..., Sim]:
    """The function that starts an engine, for fixtures that end it themselves."""
    return start


@pytest.fixture
def start_sim() -> Iterator[Callable[..., Sim]]:
    """Start engines that end with the test."""
    sims: list[Sim] = []

    def begin(*arguments: str, **more: Any) -> Sim:
        sims.append(start(*arguments, **more))
        return sims[-1]

    yield begin
    for sim in sims:
        sim.http.close()
        sim.process.kill()
        sim.process.wait()


@pytest.fixture(scope="session")
def sim() -> Iterator[Sim]:
    """One instant engine for all tests that leave it as they found it."""
    running = start(
        "--time-scale", "0", "--model", "sim-model", "--served-model-name", "sim-model", "sim-alias"
    )
    yield running
    running.http.close()
    running.process.kill()
    running.process.wait()
