"""The simulated engines of this benchmark: what they are like, as arguments of ``python -m shoal.sim``. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.routing.workload import MODEL

SCALE = 4  # tokens of a real model that one token of the simulated engine stands for
FASTER = 2  # how much faster than a real engine's time that of the simulated one runs
ENGINES = 8


@dataclass(frozen=True)
class Hardware:
    """One engine. Its tokens are the simulated ones, each worth `SCALE` real ones.

    By default about an 8 B model in FP8 on one H100 (50,000 prompt tokens/s, a step of 6.5 ms and 0.05 ms for each
    request in it, room for 450,000 tokens), with time running `FASTER` times as fast: 4 tokens in one make a step of
    26 ms, and that takes 13 ms.

    Attributes:
        prefill_us: microseconds for a prompt token.
        decode_ms: milliseconds of a step.
        decode_us: microseconds of a step for each request that decodes.
        kv_blocks: KV blocks.
        block: tokens of a block.
        max_batched: tokens of a step at most (chunked prefill).
        max_seqs: requests that run at the same time.
        max_len: tokens of a request at most.
    """

    prefill_us: float = 20.0 * SCALE / FASTER
    decode_ms: float = 6.5 * SCALE / FASTER
    decode_us: float = 50.0 * SCALE / FASTER
    kv_blocks: int = 450_000 // SCALE // 16
    block: int = 16
    max_batched: int = 2048
    max_seqs: int = 256
    max_len: int = 48000

    def arguments(self) -> list[str]:
        """Return the command line of the simulated engine."""
        values = {
            "model": MODEL,
            "prefill-us-per-token": self.prefill_us,
            "decode-ms": self.decode_ms,
            "decode-us-per-seq": self.decode_us,
            "kv-blocks": self.kv_blocks,
            "block-size": self.block,
            "max-num-batched-tokens": self.max_batched,
            "max-num-seqs": self.max_seqs,
            "max-model-len": self.max_len,
            # One event for the first token, then few: times to first token are exact, and the rest costs nothing.
            "stream-interval": 64,
        }
        words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        return [*words, "--enable-prompt-tokens-details"]


@dataclass(frozen=True)
class Answered:
    """What a client saw of one request.

    Attributes:
        session: whose.
        turn: its number in the session.
        start: seconds after the start of the workload at which it was sent.
        first: seconds until the first token; None when none came.
        end: seconds until the end.
        prompt: tokens of the prompt.
        cached: those of them that the engine had.
        error: what went wrong, "" if nothing.
    """

    session: str
    turn: int
    start: float
    first: float | None
    end: float
    prompt: int = 0
    cached: int = 0
    error: str = ""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least of `values`, at least one, that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
