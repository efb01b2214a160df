"""A port that takes connections for exactly as long as an engine's first process lives."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from shoal.engine.lifeline import listening
from shoal.engine.ports import hold
from shoal.engine.process import EngineProcess
from support.ports import free_ports
from unit.engine.fakes import Fake


def connects(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_lives_and_dies_with_the_process_also_while_that_is_stopped(tmp_path: Path):
    async def main() -> None:
        (port,) = free_ports(1)
        process = await EngineProcess.start(
            Fake(tmp_path).spec(), tmp_path / "state", lifeline=listening("127.0.0.1", port)
        )
        try:
            assert process.record.lifeline == port
            assert connects(port)
            process._signal(signal.SIGSTOP)
            assert connects(port)
        finally:
            await process.terminate(0)
        assert not connects(port)

    asyncio.run(main())


def test_it_takes_a_port_that_is_held_for_it_and_no_other_ones():
    (port,) = free_ports(1)
    held = hold("127.0.0.1", port)
    assert held is not None
    with held, listening("127.0.0.1", port):
        assert connects(port)
        with pytest.raises(OSError, match="in use"):
            listening("127.0.0.1", port)
