"""Lets faults strike a group of plain vLLM and looks at what its clients, and the machine, see of them."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.chaos.cluster import ChaosError, wait_for
from benchmarks.chaos.faults.base import now
from benchmarks.chaos.plain_faults import IDLE, PlainFault
from benchmarks.chaos.plain_group import MAX_TOKENS, MODEL, PlainGroup

_UP = 300.0  # seconds that both may take to load, on a busy machine
_RUNNING = 20  # tokens after which a request counts as running
_EVERY = 0.05  # seconds between two looks
_NEW = 1.0  # seconds after the fault until another request comes
_SETTLE = 8.0  # seconds that what is left may take to go by itself


@dataclass
class PlainTrial:
    """One fault, once. Seconds from the fault on; None where it did not happen as long as one looked.

    Attributes:
        unhealthy: until ``/health`` did not answer with 200.
        failed: until the running request failed.
        new_failed: until a request failed that came after the fault.
        leader: until the leader's main process had exited by itself.
        leader_code: its exit status.
        follower: the same of the follower's.
        follower_code: its exit status.
        tokens: that the running request still got.
        left: see `plain_group.Left`.
    """

    unhealthy: float | None = None
    failed: float | None = None
    new_failed: float | None = None
    leader: float | None = None
    leader_code: int | None = None
    follower: float | None = None
    follower_code: int | None = None
    tokens: int = 0
    left: dict[str, int] = field(default_factory=dict)


class _Stream:
    """One streaming request and what became of it."""

    def __init__(self, url: str) -> None:
        self.tokens = 0
        self.failed: float | None = None
        self._url = url
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        body: dict[str, Any] = {"model": MODEL, "prompt": "hello", "max_tokens": MAX_TOKENS}
        body |= {"ignore_eos": True, "stream": True, "temperature": 0}
        async with httpx.AsyncClient(trust_env=False, timeout=None) as http:
            try:
                async with http.stream("POST", f"{self._url}/v1/completions", json=body) as reply:
                    reply.raise_for_status()
                    async for line in reply.aiter_lines():
                        if line.startswith("data: {"):
                            if "error" in json.loads(line[6:]):
                                self.failed = self.failed or now()
                            else:
                                self.tokens += 1
                        elif line == "data: [DONE]":
                            return
            except httpx.HTTPError:
                pass
        self.failed = self.failed or now()


async def run_trial(fault: PlainFault, model: Path) -> PlainTrial:
    """Start a group, let a fault strike, look, and clear up.

    Raises:
        ChaosError: the group did not get ready.
    """
    with tempfile.TemporaryDirectory(prefix="shoal-plain-") as directory:
        group = PlainGroup(model, Path(directory))
        try:
            return await _trial(fault, group)
        finally:
            await asyncio.to_thread(group.end)


async def _trial(fault: PlainFault, group: PlainGroup) -> PlainTrial:
    if await wait_for(lambda: _ready(group), _UP) is None or group.leader.process.poll() is not None:
        raise ChaosError(f"vLLM did not get ready within {_UP:.0f} s:\n{group.last_words()}")
    running = _Stream(group.url)
    streams = [running]
    try:
        if await wait_for(lambda: _true(running.tokens >= _RUNNING or running.failed), _UP) is None:
            raise ChaosError(f"vLLM does not answer:\n{group.last_words()}")
        if not fault.busy:
            running.task.cancel()
            await asyncio.sleep(1.0)  # until vLLM has noticed
        group.look()
        trial = PlainTrial()
        tokens = running.tokens
        struck = now()
        fault.strike(group)
        await _look(fault, group, struck, streams, trial)
        trial.failed = _since(struck, running.failed)
        trial.new_failed = _since(struck, streams[1].failed) if len(streams) > 1 else None
        trial.tokens = running.tokens - tokens
        trial.left = asdict(group.left())
        return trial
    finally:
        for stream in streams:
            stream.task.cancel()


async def _look(
    fault: PlainFault, group: PlainGroup, struck: float, streams: list[_Stream], trial: PlainTrial
) -> None:
    """Fill in what happens, until nothing more can or patience is over."""
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as http:
        over = struck + fault.patience
        while now() < over:
            if len(streams) == 1 and now() > struck + (_NEW if fault.busy else IDLE):
                streams.append(_Stream(group.url))
            if trial.unhealthy is None and not await _healthy(http, group.url):
                trial.unhealthy = now() - struck
            if trial.leader is None and (code := group.leader.process.poll()) is not None:
                trial.leader, trial.leader_code = now() - struck, code
                over = min(over, now() + _SETTLE)
            if trial.follower is None and (code := group.follower.process.poll()) is not None:
                trial.follower, trial.follower_code = now() - struck, code
            await asyncio.sleep(_EVERY)


async def _ready(group: PlainGroup) -> bool:
    if group.leader.process.poll() is not None:
        return True
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as http:
        return await _healthy(http, group.url)


async def _healthy(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/health")).status_code == 200
    except httpx.HTTPError:
        return False


async def _true(value: object) -> bool:
    return bool(value)


def _since(struck: float, moment: float | None) -> float | None:
    return None if moment is None else moment - struck


Say = Callable[[str], None]


async def run_faults(
    wanted: list[PlainFault], trials: int, model: Path, say: Say
) -> dict[str, list[PlainTrial]]:
    """Try faults one after the other; return the trials of each."""
    found: dict[str, list[PlainTrial]] = {}
    for fault in wanted:
        for number in range(trials):
            say(f"plain vLLM, {fault.name}: trial {number + 1} of {trials}")
            found.setdefault(fault.name, []).append(await run_trial(fault, model))
    return found
