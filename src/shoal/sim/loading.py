"""What an engine prints while it starts, in the manner of vLLM's log, so that readers of such logs can be tested."""

from __future__ import annotations

import asyncio
import os
import time

from shoal.sim.options import Settings
from shoal.sim.render import VERSION

_SHARDS = 4


def log(role: str, message: str) -> None:
    """Print one line as vLLM's logger formats it."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    print(f"({role} pid={os.getpid()}) INFO {stamp} [sim] {message}", flush=True)


async def load(settings: Settings) -> None:
    """Take `settings.load_time` seconds and tell how far it got."""
    follows = settings.place is not None and settings.place.rank > 0
    role = "Worker" if follows else "APIServer"
    log(role, f"vLLM server version {VERSION} (simulated), serving model {settings.model}")
    if settings.ignored:
        log(role, f"note: ignoring arguments of vLLM: {' '.join(settings.ignored)}")
    started = time.monotonic()
    log("Worker", f"Starting to load model {settings.model}...")
    for shard in range(_SHARDS + 1):
        if shard:
            await asyncio.sleep(settings.load_time / _SHARDS)
        took = time.monotonic() - started
        left = took / shard * (_SHARDS - shard) if shard else 0.0
        rate = f"{shard / took:5.2f}it/s" if shard and took > 0.01 else "?it/s"
        done = f"{100 * shard // _SHARDS:3d}% Completed | {shard}/{_SHARDS}"
        clock = f"[{_clock(took)}<{_clock(left) if shard else '?'}, {rate}]"
        print(f"Loading safetensors checkpoint shards: {done} {clock}", flush=True)
    log("Worker", f"Loading weights took {time.monotonic() - started:.2f} seconds")
    if follows:
        return
    tokens = settings.kv_blocks * settings.block_size
    concurrency = tokens / settings.max_model_len
    log("EngineCore", f"GPU KV cache size: {tokens:,} tokens")
    log(
        "EngineCore",
        f"Maximum concurrency for {settings.max_model_len:,} tokens per request: {concurrency:.2f}x",
    )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
