"""Measures two models in real vLLM. Both run at once and are asked in turn: what else the machine does hits both."""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from shoal.engine.command import GIB
from shoal.engine.gpu import list_gpus
from shoal.engine.machine import this_machine
from shoal.engine.ports import reserve
from shoal.engine.probe import Probe, ProbeError
from shoal.engine.process import EngineProcess
from shoal.engine.spawn import StartError
from shoal.engine.spec import EngineSpec
from shoal.optimize.compare import Measured, Speed
from shoal.optimize.errors import OptimizeError
from shoal.optimize.source import weights_bytes
from shoal.optimize.texts import TextError, read_texts
from shoal.optimize.worker import Tell

_PORTS = (21000, 21999)
_START = 900.0  # s an engine may take to get ready
_CACHE = GIB // 4  # of keys and values for each engine
_NAME = "model"


@dataclass(frozen=True)
class Effort:
    """How much is asked.

    Attributes:
        texts: held-out texts that perplexity is measured on.
        length: tokens of each.
        answers: greedy answers that are compared.
        tokens: of an answer.
        loads: requests at once.
        rounds: how often each load is measured, the two models in turn.
    """

    texts: int = 32
    length: int = 256
    answers: int = 8
    tokens: int = 48
    loads: tuple[int, ...] = (1, 4, 8)
    rounds: int = 3


class _Engine:
    """One running engine."""

    def __init__(self, path: Path, port: int, pid: int) -> None:
        self.path, self._pid = path, pid
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False)

    async def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            OptimizeError: there is none.
        """
        try:
            reply = await self._client.post(path, json={"model": _NAME} | body)
            reply.raise_for_status()
            answer: dict[str, Any] = reply.json()
        except httpx.HTTPError as error:
            raise OptimizeError(f"the engine of {self.path} did not answer {path}: {error}") from error
        return answer

    async def stream(self, ids: Sequence[int], count: int) -> list[float]:
        """Return when each token of an answer came, seconds from the request on."""
        begun = time.perf_counter()
        body = {"model": _NAME, "prompt": list(ids), "max_tokens": count, "ignore_eos": True, "stream": True}
        async with self._client.stream("POST", "/v1/completions", json=body | {"temperature": 0}) as reply:
            lines = reply.aiter_lines()
            return [time.perf_counter() - begun async for line in lines if line.startswith("data: {")]

    def memory(self) -> int | None:
        """Return the bytes its processes have for themselves, and their part of what they share."""
        leader = psutil.Process(self._pid)
        try:
            return sum(p.memory_full_info().pss for p in (leader, *leader.children(recursive=True)))
        except (psutil.Error, AttributeError):
            return None


@asynccontextmanager
async def _running(path: Path, python: Path | None) -> AsyncIterator[_Engine]:
    """Run real vLLM with a model until the block ends.

    Raises:
        OptimizeError: it does not get ready.
    """
    gpus = list_gpus()
    args = ["--max-model-len", "2048", "--kv-cache-memory-bytes", str(_CACHE), "--enforce-eager"]
    if gpus:
        args += ["--gpu-memory-utilization", "0.4"]
    with tempfile.TemporaryDirectory(prefix="shoal-evaluate.") as state:
        reservation = reserve("127.0.0.1", *_PORTS, str(path))
        spec = EngineSpec(
            id=_NAME,
            model=_NAME,
            kind="vllm",
            model_path=str(path),
            served_name=_NAME,
            args=tuple(args),
            gpus=(gpus[0].index,) if gpus else (),
            port=reservation.port,
            python=str(python or sys.executable),
        )
        try:
            process = await EngineProcess.start(
                spec, Path(state), reservation=reservation, machine=this_machine(1)
            )
        except StartError as error:
            reservation.release()
            raise OptimizeError(f"vLLM cannot be started: {error}") from error
        try:
            await _ready(path, process, spec.port)
            yield _Engine(path, spec.port, process.pid)
        finally:
            await process.terminate(5)


async def _ready(path: Path, process: EngineProcess, port: int) -> None:
    begun = time.monotonic()
    async with Probe(f"http://127.0.0.1:{port}", _NAME, timeout=60) as probe:
        while time.monotonic() - begun < _START:
            try:
                await probe.health()
                await probe.canary()
            except ProbeError:
                await asyncio.wait({process.exited}, timeout=0.5)
            else:
                return
            if process.exited.done():
                break
    why = next(
        (
            line
            for line in reversed(process.log.read_text(errors="replace").splitlines())
            if "Error: " in line
        ),
        "",
    )
    raise OptimizeError(f"vLLM does not serve {path}: {why.strip()[-200:] or 'it did not get ready'}")


async def measure(
    paths: Sequence[Path], text: Path | None, effort: Effort, tell: Tell, python: Path | None = None
) -> list[Measured]:
    """Measure models side by side. They must have the same vocabulary.

    Args:
        paths: their directories.
        text: file with text, as for `read_texts`; the held-out part is used.
        effort: how much is asked.
        tell: hears how far it is.
        python: interpreter vLLM is installed in; None for this one.

    Raises:
        OptimizeError: one of them cannot be served or asked.
    """
    try:
        texts = read_texts(text, held_out=True)
    except TextError as error:
        raise OptimizeError(str(error)) from error
    async with AsyncExitStack() as stack:
        tell(f"vLLM loads {' and '.join(path.name for path in paths)}", 0, 0)
        engines = await _all(stack, [_running(path, python) for path in paths])
        prompts = await _prompts(engines, texts, effort)
        memories = [engine.memory() for engine in engines]
        scored = [await _scores(engine, prompts, tell) for engine in engines]
        asked = prompts[: effort.answers]
        answers = [
            [await _answer(engine, ids[: effort.length // 4], effort.tokens) for ids in asked]
            for engine in engines
        ]
        speeds = await _speeds(engines, prompts, effort, tell)
    found = []
    for i, engine in enumerate(engines):
        losses = [loss for row in scored[i] for loss, _ in row]
        memory = memories[i]
        found.append(
            Measured(
                name=engine.path.name,
                size=weights_bytes(engine.path),
                memory=None if memory is None else memory - _CACHE,
                perplexity=math.exp(sum(losses) / len(losses)),
                likeliest=tuple(top for row in scored[i] for _, top in row),
                answers=tuple(answers[i]),
                speeds=speeds[i],
            )
        )
    return found


async def _all(
    stack: AsyncExitStack, engines: Sequence[AbstractAsyncContextManager[_Engine]]
) -> list[_Engine]:
    """Enter all at the same time: while one waits for its disk, the other computes. Where one fails, all end."""
    tasks = [asyncio.ensure_future(stack.enter_async_context(engine)) for engine in engines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _scores(engine: _Engine, prompts: Sequence[list[int]], tell: Tell) -> list[list[tuple[float, int]]]:
    found = []
    for done, ids in enumerate(prompts):
        tell(f"reads with {engine.path.name}", done, len(prompts))
        found.append(await _score(engine, ids))
    return found


async def _prompts(engines: Sequence[_Engine], texts: Sequence[str], effort: Effort) -> list[list[int]]:
    """Return held-out texts as token ids, equal for all engines.

    Raises:
        OptimizeError: their tokenizers differ, or there is too little text.
    """
    whole = "\n\n".join(texts)[: effort.texts * effort.length * 12]
    tokens = [
        (await engine.ask("/tokenize", prompt=whole, add_special_tokens=False))["tokens"]
        for engine in engines
    ]
    if any(other != tokens[0] for other in tokens):
        raise OptimizeError("the models have different tokenizers, so their perplexities do not compare")
    rows = min(effort.texts, len(tokens[0]) // effort.length)
    if rows == 0:
        raise OptimizeError(
            f"the held-out text has {len(tokens[0])} tokens, {effort.length} are needed at least"
        )
    return [tokens[0][i * effort.length : (i + 1) * effort.length] for i in range(rows)]


async def _score(engine: _Engine, ids: list[int]) -> list[tuple[float, int]]:
    """Return for each token but the first its loss in nats, and the token that the model holds likeliest there."""
    answer = await engine.ask("/v1/completions", prompt=ids, max_tokens=1, temperature=0, prompt_logprobs=1)
    found = []
    for token, told in zip(ids[1:], answer["choices"][0]["prompt_logprobs"][1:], strict=True):
        top = next(int(key) for key, value in told.items() if value["rank"] == 1)
        found.append((-told[str(token)]["logprob"], top))
    return found


async def _answer(engine: _Engine, ids: list[int], count: int) -> tuple[int, ...]:
    answer = await engine.ask(
        "/v1/completions", prompt=ids, max_tokens=count, temperature=0, return_token_ids=True
    )
    return tuple(answer["choices"][0]["token_ids"])


async def _speeds(
    engines: Sequence[_Engine], prompts: Sequence[Sequence[int]], effort: Effort, tell: Tell
) -> list[tuple[Speed, ...]]:
    """Return each engine's speeds; the engines are asked in turn, in rounds."""
    found: list[list[Speed]] = [[] for _ in engines]
    for load in effort.loads:
        rounds: list[list[tuple[list[list[float]], float]]] = [[] for _ in engines]
        for turn in range(effort.rounds + 1):
            tell(f"measures speed with {load} at once", turn, effort.rounds + 1)
            for i, engine in enumerate(engines):
                begun = time.perf_counter()
                # Prompts of their own each time: none is in the engine's cache.
                chosen = [_distinct(prompts, turn * load + j, effort) for j in range(load)]
                times = await asyncio.gather(*(engine.stream(ids, effort.tokens) for ids in chosen))
                if turn > 0:  # the first one warms up
                    rounds[i].append((list(times), time.perf_counter() - begun))
        for i, measured in enumerate(rounds):
            streams = [t for times, _ in measured for t in times if len(t) > 1]
            found[i].append(
                Speed(
                    at_once=load,
                    first_token=statistics.median(t[0] for t in streams),
                    per_token=statistics.median((t[-1] - t[0]) / (len(t) - 1) for t in streams),
                    tokens=statistics.median(sum(map(len, times)) / took for times, took in measured),
                )
            )
    return [tuple(speeds) for speeds in found]


def _distinct(prompts: Sequence[Sequence[int]], number: int, effort: Effort) -> list[int]:
    ids = list(prompts[number % len(prompts)])[: effort.length // 2]
    return [*ids[number % 7 :], *ids[: number % 7]]
