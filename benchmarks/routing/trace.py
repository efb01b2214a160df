"""Recorded traffic: requests with arrival, lengths and the identity of each block of 512 tokens. Pure but for files.

The format is that of Mooncake's traces (https://github.com/kvcache-ai/Mooncake, FAST25-release/traces, Apache-2.0):
a JSON object a line with ``timestamp`` (milliseconds), ``input_length`` and ``output_length`` (tokens) and ``hash_ids``
(equal ids stand for equal content and equal beginnings). ``hash_ids`` may also be a string of ranges: ``"0,46-58"``.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.routing.words import words
from benchmarks.routing.workload import Session, Turn, Workload

BLOCK = 512  # tokens of one id


class TraceError(Exception):
    """A file is no trace; the message is for people."""


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded request.

    Attributes:
        at: seconds from the start.
        prompt: tokens.
        answer: tokens.
        blocks: ids of the blocks of the prompt.
    """

    at: float
    prompt: int
    answer: int
    blocks: tuple[int, ...]


def expand(ranges: str) -> tuple[int, ...]:
    """Return the numbers of ``"0,46-58"``."""
    found: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def compress(numbers: Sequence[int]) -> str:
    """Return numbers as `expand` reads them."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def read(path: Path) -> list[Record]:
    """Return the requests of a trace by their arrival.

    Raises:
        TraceError: it cannot be read, or a line is none.
    """
    records: list[Record] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"the trace {path} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            ids = fields["hash_ids"]
            blocks = expand(ids) if isinstance(ids, str) else tuple(int(one) for one in ids)
            prompt, answer = int(fields["input_length"]), int(fields["output_length"])
            if prompt < 1 or not blocks:
                raise ValueError("a prompt is empty")
            records.append(Record(float(fields["timestamp"]) / 1000, prompt, answer, blocks))
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(
                f"{path}:{number} is no request of a trace ({error!r}); wanted are timestamp, input_length, "
                "output_length and hash_ids, as in Mooncake's traces."
            ) from error
    if not records:
        raise TraceError(f"the trace {path} has no request.")
    return sorted(records, key=lambda record: record.at)


def conversations(records: Sequence[Record]) -> list[list[Record]]:
    """Return records that share more than what all share, by the first of each: turns of one conversation."""
    common = len(_common(records))
    groups: dict[tuple[int, ...], list[Record]] = defaultdict(list)
    for number, record in enumerate(records):
        own = record.blocks[common : common + 1]
        groups[own or (-1, number)].append(record)
    return list(groups.values())


def _common(records: Sequence[Record]) -> tuple[int, ...]:
    first = records[0].blocks
    length = len(first)
    for record in records:
        while record.blocks[:length] != first[:length]:
            length -= 1
    return first[:length]


def sample(records: Sequence[Record], requests: int, seed: int) -> list[Record]:
    """Return about `requests` of the records: whole conversations, so that what they share stays shared."""
    groups = conversations(records)
    random.Random(f"trace {seed}").shuffle(groups)
    taken: list[Record] = []
    for group in groups:
        if len(taken) >= requests:
            break
        taken.extend(group)
    return sorted(taken, key=lambda record: record.at)


def replay(records: Sequence[Record], rate: float, scale: int, seed: int) -> Workload:
    """Return the workload of a trace.

    Args:
        records: what was recorded.
        rate: requests per second in the mean; arrivals keep their pattern, time is compressed.
        scale: recorded tokens that one token of the simulated engine stands for.
        seed: makes other texts of the same structure.
    """
    begin = records[0].at
    seconds = max(records[-1].at - begin, 1e-9)
    faster = seconds / (len(records) / rate)
    size = BLOCK // scale
    rng = random.Random(f"arrivals {seed}")
    grain = _grain(records)
    sessions = []
    for number, record in enumerate(records):
        whole = "".join([words(size, seed, block) for block in record.blocks])
        text = whole[: 5 * max(1, min(record.prompt // scale, size * len(record.blocks)))]
        # Recorded times are rounded to whole grains: what fell into one is spread over it again.
        at = (record.at - begin + rng.random() * grain) / faster
        turn = Turn(0.0, text, max(1, round(record.answer / scale)))
        sessions.append(Session(f"trace-{seed}-{number}", at, None, (turn,)))
    sessions.sort(key=lambda session: session.start)
    about = f"{len(sessions)} requests of {seconds:.0f} s in {seconds / faster:.0f} s, {rate:g} requests/s"
    return Workload("trace", sessions, seed, about)


def _grain(records: Sequence[Record]) -> float:
    """Return the seconds to which arrival times were rounded: the least difference between two."""
    times = sorted({record.at for record in records})
    return min((b - a for a, b in itertools.pairwise(times)), default=0.0)
