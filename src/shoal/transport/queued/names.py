"""What queues and topics are called."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

BATCH, ORDINARY, URGENT = CLASSES = (0, 1, 2)
"""Classes of priority, each with a queue of its own for each model: higher ones are served first."""

_WORDS = ("batch", "ordinary", "urgent")
_OTHER = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 100  # of a part; Kafka allows 249 characters for a whole name


def class_of(priority: int) -> int:
    """Return the class of a call's priority."""
    return max(BATCH, min(URGENT, priority))


@dataclass(frozen=True, slots=True)
class Names:
    """Names of one cluster's queues at a broker.

    Args:
        prefix: what all begin with.
    """

    prefix: str

    def requests(self, model: str, level: int) -> str:
        """Return the queue of a model's requests of a class."""
        return f"{self.prefix}.requests.{part(model)}.{_WORDS[level]}"

    def group(self, model: str, id: str) -> str:  # noqa: A002
        """Return the group of the nodes that serve a model; `id` tells its topics from earlier ones of that name."""
        return f"{self.prefix}.servers.{part(model)}.{part(id)}"

    def inbox(self, node: str, incarnation: str) -> str:
        """Return the inbox of a node; `incarnation` tells it from those that it had before."""
        return f"{self.prefix}.inbox.{part(node)}.{incarnation}"

    @property
    def cancel(self) -> str:
        """Where cancellations go that all nodes must hear."""
        return f"{self.prefix}.cancel"

    @property
    def dead(self) -> str:
        """Where requests end that nobody answered."""
        return f"{self.prefix}.dead"


def part(text: str) -> str:
    """Return `text` in the letters that every broker allows; different texts stay different."""
    plain = _OTHER.sub("_", text)
    if plain == text and len(text) <= _LONGEST:
        return text
    return f"{plain[:_LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
