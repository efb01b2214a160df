"""The batch: prompts, and the input file of it. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

_THINGS = (
    *("the sea", "a market", "the winter", "bridges", "an engine", "old letters", "a garden", "the moon"),
    *("bread", "maps", "a river", "clocks"),
)
_READERS = ("children", "engineers", "travellers", "cooks", "teachers", "sailors", "gardeners", "doctors")


class WorkError(Exception):
    """The answers are not those to the batch; the message is for people."""


def prompts(count: int, number: int) -> list[str]:
    """Return so many prompts.

    Args:
        count: how many.
        number: of the batch, 10 to 99. Prompts of two batches differ in it, near their beginning, and in nothing else:
            they are the same work, and no engine has them in its cache from the batch before.
    """
    pairs = itertools.islice(itertools.cycle(itertools.product(_READERS, _THINGS)), count)
    return [
        f"Essay {number}-{index + 100}. Write a short paragraph about {thing} for {reader}."
        for index, (reader, thing) in enumerate(pairs)
    ]


def body(model: str, prompt: str, tokens: int) -> dict[str, object]:
    """Return a request for exactly `tokens` tokens, greedily."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


def batch(model: str, texts: Sequence[str], tokens: int) -> str:
    """Return the input file of a batch."""
    lines = (
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body(model, text, tokens),
        }
        for number, text in enumerate(texts)
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


def tokens_made(output: str, count: int) -> int:
    """Return how many tokens the output file of a batch of `count` lines has.

    Raises:
        WorkError: it does not answer each line once.
    """
    answers = [json.loads(line) for line in output.splitlines()]
    if sorted(int(a["custom_id"]) for a in answers) != list(range(count)):
        raise WorkError(f"the output has {len(answers)} answers that are not one each to {count} lines")
    return sum(a["response"]["body"]["usage"]["completion_tokens"] for a in answers)
