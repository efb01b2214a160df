"""Simulated engines as real processes."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

DEADLINE = 10.0


@dataclass
class Sim:
    """A running `python -m shoal.sim`."""

    process: subprocess.Popen[bytes]
    url: str
    took: float
    output: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Reading the system's certificates takes a tenth of a second for each client.
        self.http = httpx.Client(base_url=self.url, timeout=DEADLINE, verify=False)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def state(self) -> dict[str, Any]:
        return dict(self.http.get("/sim/state").json())

    def fault(self, **fault: Any) -> None:
        response = self.http.post("/sim/fault", json=fault)
        assert response.status_code == 200, response.text

    def complete(self, **body: Any) -> dict[str, Any]:
        response = self.http.post("/v1/completions", json={"prompt": "hello", "max_tokens": 8} | body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def another(self, timeout: float = DEADLINE) -> httpx.Client:
        """A client with connections of its own."""
        return httpx.Client(base_url=self.url, timeout=timeout, verify=False)

    def wait(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the engine's state fulfils a condition."""
        give_up = time.monotonic() + DEADLINE
        while time.monotonic() < give_up:
            state = self.state()
            if condition(state):
                return state
            time.sleep(0.005)
        raise AssertionError(f"not within {DEADLINE} s: {state}")

    def stop(self) -> int:
        self.http.close()
        self.process.terminate()
        return self.process.wait(DEADLINE)


def end_helpers(state: dict[str, Any]) -> None:
    """End what a killed engine leaves behind, of which it told in a state before, and its shared memory."""
    for pid in state.get("children", ()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if state.get("segment"):
        Path(state["segment"]).unlink(missing_ok=True)


def start(*arguments: str, env: dict[str, str] | None = None, wait: bool = True) -> Sim:
    """Start a simulated engine on a free port of loopback and wait until it answers (or only says it will)."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal.sim", "--host", "127.0.0.1", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    output: list[str] = []
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < began + DEADLINE:
            if not selector.select(timeout=0.1):
                continue
            data = os.read(process.stdout.fileno(), 65536)
            pending += data
            *lines, pending = pending.split(b"\n")
            output += [line.decode() for line in lines]
            if not data or "INFO:     Application startup complete." in output:
                break
    match = re.search(r"Starting vLLM server on (https?://\S+)", "\n".join(output))
    if match is None or process.poll() is not None:
        process.kill()
        raise AssertionError(f"the simulated engine did not start: {output}")
    sim = Sim(process, match[1], 0.0, output)
    give_up = began + DEADLINE
    while wait:
        try:
            sim.http.get("/health")
            break
        except httpx.ConnectError:
            assert time.monotonic() < give_up
            time.sleep(0.002)
    sim.took = time.monotonic() - began
    return sim
