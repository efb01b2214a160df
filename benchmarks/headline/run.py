"""Has the batch done: in a loop in a process of its own, by one engine asked directly, and by clusters."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.headline.results import ENGINE, LOOP, Run, shoal
from benchmarks.headline.work import WorkError, batch, body, prompts, tokens_made
from benchmarks.pooling.run import BenchError, Running, running

ROOT = Path(__file__).resolve().parents[2]
NAME = "headline"
# Those of examples/demo.yaml: three engines on a small machine, or three that share a GPU.
ARGS = {
    "max-model-len": 2048,
    "max-num-seqs": 16,
    "kv-cache-memory-bytes": "512M",
    "gpu-memory-utilization": 0.2,
    "enforce-eager": True,
}
_WARM = 8  # tokens of the answers that warm engines up


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        prompts: of the batch.
        tokens: of each answer.
        looped: prompts that the loop does: each takes it as long as any other, however many there are.
        nodes: at most.
    """

    prompts: int
    tokens: int
    looped: int
    nodes: int = 3


def loop(model: Path, plan: Plan, tell: Callable[[str], None]) -> Run:
    """Do the batch, or a part of it, one prompt after the other.

    Raises:
        BenchError: it failed.
    """
    tell(f"{LOOP}: {plan.looped} prompts")
    work = json.dumps({"prompts": prompts(plan.prompts, 10)[: plan.looped], "tokens": plan.tokens})
    command = [sys.executable, "-m", "benchmarks.headline.alone", str(model)]
    done = subprocess.run(command, input=work, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise BenchError(f"transformers failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    return Run(
        f"{LOOP}, {found['threads']} thread{'s' * (found['threads'] > 1)}", found["seconds"], found["tokens"]
    )


def serve(section: dict[str, Any], plan: Plan, directory: Path, tell: Callable[[str], None]) -> list[Run]:
    """Have the batch done by one engine, and by one node and more.

    Args:
        section: of the model, in the configuration.
        plan: how much.
        directory: for everything that is written.
        tell: hears how far it is.

    Raises:
        BenchError: it failed.
    """
    with running(section | {"name": NAME}, directory, tell, plan.nodes) as cluster:
        tell("warming up")
        _by_shoal(cluster, prompts(4 * plan.nodes, 11), _WARM, directory / "warm", plan.nodes)
        tell(ENGINE)
        runs = [asyncio.run(_by_engine(cluster.engine, prompts(plan.prompts, 12), plan.tokens))]
        for nodes in range(1, plan.nodes + 1):
            tell(shoal(nodes))
            cluster.only(nodes)
            texts = prompts(plan.prompts, 12 + nodes)
            runs.append(_by_shoal(cluster, texts, plan.tokens, directory / str(nodes), nodes))
    return runs


def _by_shoal(cluster: Running, texts: Sequence[str], tokens: int, place: Path, nodes: int) -> Run:
    """Run ``shoal batch run``, and take the time from its start to its end."""
    source, output = place.with_suffix(".jsonl"), place.with_suffix(".out.jsonl")
    source.write_text(batch(NAME, texts, tokens))
    command = [sys.executable, "-m", "shoal", "batch", "run", str(source), "-o", str(output)]
    begun = time.perf_counter()
    done = subprocess.run([*command, "-c", str(cluster.config)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode != 0:
        raise BenchError(f"shoal batch run failed:\n{done.stderr[-2000:]}")
    try:
        return Run(shoal(nodes), seconds, tokens_made(output.read_text(), len(texts)), nodes)
    except WorkError as error:
        raise BenchError(str(error)) from error


async def _by_engine(url: str, texts: Sequence[str], tokens: int) -> Run:
    """Ask an engine for everything at once: it takes as much as it can."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False, limits=limits) as client:

        async def one(text: str) -> int:
            reply = await client.post("/v1/chat/completions", json=body(NAME, text, tokens))
            if reply.status_code != 200:
                raise BenchError(f"{url} answered {reply.status_code}: {reply.text[:200]}")
            return int(reply.json()["usage"]["completion_tokens"])

        begun = time.perf_counter()
        try:
            made = await asyncio.gather(*(one(text) for text in texts))
        except httpx.HTTPError as error:
            raise BenchError(f"{url} did not answer: {error!r}") from error
        return Run(ENGINE, time.perf_counter() - begun, sum(made))
