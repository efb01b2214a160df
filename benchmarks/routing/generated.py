"""Generated workloads: conversations, and agents that use tools. Lengths are the simulated engine's tokens. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.routing.words import words
from benchmarks.routing.workload import Session, Turn, Workload


@dataclass(frozen=True)
class Shape:
    """What sessions of a workload are like. Tokens are the engine's.

    Attributes:
        name: of the workload.
        systems: how many different system prompts there are; the first ones are used most (Zipf, exponent 1).
        system: tokens of a system prompt, least and greatest.
        opening: tokens of the first message, median; log-normal.
        message: tokens of the later messages, median; log-normal.
        spread: sigma of the logarithm of both.
        answer: tokens of an answer, median; log-normal.
        turns: of a session, in the mean; geometric, so most sessions are short and some are long.
        longest: turns at most.
        pause: seconds between an answer and the next message, in the mean; exponential.
        burst: sessions that start at the same moment, in the mean: geometric, 1 for none.
    """

    name: str
    systems: int
    system: tuple[int, int]
    opening: float
    message: float
    spread: float
    answer: float
    turns: float
    longest: int
    pause: float
    burst: float = 1.0


MULTI_TURN = Shape(
    "multi-turn",
    systems=8,
    system=(60, 500),
    opening=700,
    message=60,
    spread=1.0,
    answer=30,
    turns=5,
    longest=10,
    pause=0.25,
)
"""People who talk to some assistants; some bring a document along."""

AGENTS = Shape(
    "agents",
    systems=5,
    system=(1500, 2500),
    opening=150,
    message=300,
    spread=1.2,
    answer=20,
    turns=8,
    longest=16,
    pause=0.1,
    burst=6.0,
)
"""Programs with long instructions and tools, whose next request follows as soon as a tool has run.

They come in groups, as when a task is given to several at once, and what a tool returns is a line or a book.
"""


def _length(rng: random.Random, median: float, spread: float, most: float = 20.0) -> int:
    """Return a log-normal length, at most `most` times the median."""
    return max(1, round(min(median * math.exp(rng.gauss(0, spread)), most * median)))


def _turns(rng: random.Random, shape: Shape) -> int:
    count = 1 + math.floor(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / shape.turns))
    return min(count, shape.longest)


def generate(shape: Shape, requests: int, rate: float, seed: int) -> Workload:
    """Return a workload.

    Args:
        shape: what sessions are like.
        requests: how many at least; the session that reaches it is the last.
        rate: requests per second that arrive in the mean over the time in which sessions start.
        seed: another one gives another workload, with other texts.
    """
    rng = random.Random(f"{shape.name} {seed}")
    systems = [words(rng.randint(*shape.system), shape.name, seed, "system", n) for n in range(shape.systems)]
    weights = [1.0 / (n + 1) for n in range(shape.systems)]
    every = shape.turns / rate  # seconds between two sessions
    sessions: list[Session] = []
    at, total = 0.0, 0
    while total < requests:
        at += rng.expovariate(1.0 / (every * shape.burst))
        size = (
            1
            if shape.burst <= 1
            else 1 + math.floor(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / shape.burst))
        )
        for _ in range(size):
            name = f"{shape.name}-{seed}-{len(sessions)}"
            turns = tuple(_session_turns(rng, shape, name))
            system = rng.choices(systems, weights)[0]
            sessions.append(Session(name, at, system, turns))
            total += len(turns)
            if total >= requests:
                break
    return Workload(shape.name, sessions, seed, _about(shape, rate))


def _session_turns(rng: random.Random, shape: Shape, name: str) -> Sequence[Turn]:
    return [
        Turn(
            wait=rng.expovariate(1.0 / shape.pause) if number else 0.0,
            text=words(_length(rng, shape.message if number else shape.opening, shape.spread), name, number),
            answer=_length(rng, shape.answer, 0.5, 4.0),
        )
        for number in range(_turns(rng, shape))
    ]


def _about(shape: Shape, rate: float) -> str:
    low, high = shape.system
    return (
        f"{shape.systems} system prompts of {low} to {high} tokens, sessions of {shape.turns:g} requests in the mean, "
        f"{shape.pause:g} s between them, {rate:g} requests/s"
    )
