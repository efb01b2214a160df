"""What a node has executed of batches, and what it still has to: for its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from shoal.batch.records import BatchRecord


class Executed:
    """Counts the lines of batches that this node has executed, and their tokens, since its process began.

    Attributes:
        lines: by result, ``completed`` and ``failed``.
        tokens: by kind, ``prompt`` and ``completion``.
    """

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter(completed=0, failed=0)
        self.tokens: Counter[str] = Counter(prompt=0, completion=0)

    def note(self, before: BatchRecord, now: BatchRecord) -> None:
        """Count what a batch has got on by."""
        self.lines["completed"] += max(0, now.completed - before.completed)
        self.lines["failed"] += max(0, now.failed - before.failed)
        self.tokens["prompt"] += max(0, now.input_tokens - before.input_tokens)
        self.tokens["completion"] += max(0, now.output_tokens - before.output_tokens)


class BatchCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of the batches that a node executes.

    Attributes:
        open: how many, by status.
        lines: of the open ones, ``completed``, ``failed`` and ``waiting``.
        oldest: seconds since the oldest of them was made, 0 without any.
        window_used: share of its completion window that is over, of the one with the largest; 0 without any.
        executed_lines: since the process began, by result.
        executed_tokens: since the process began, by kind.
    """

    open: dict[str, int]
    lines: dict[str, int]
    oldest: float
    window_used: float
    executed_lines: dict[str, int]
    executed_tokens: dict[str, int]


def counts(live: Iterable[BatchRecord], executed: Executed, now: float) -> BatchCounts:
    """Return the counts.

    Args:
        live: batches that the node executes.
        executed: what it has done.
        now: seconds since the epoch.
    """
    batches = [record for record in live if record.is_open]
    done = sum(record.completed for record in batches)
    failed = sum(record.failed for record in batches)
    waiting = sum(max(0, record.total - record.completed - record.failed) for record in batches)
    return BatchCounts(
        open=dict(Counter(record.status for record in batches)),
        lines={"completed": done, "failed": failed, "waiting": waiting},
        oldest=max((now - record.created_at for record in batches), default=0.0),
        window_used=max((_window_used(record, now) for record in batches), default=0.0),
        executed_lines=dict(executed.lines),
        executed_tokens=dict(executed.tokens),
    )


def _window_used(record: BatchRecord, now: float) -> float:
    return max(0.0, now - record.created_at) / max(1, record.expires_at - record.created_at)
