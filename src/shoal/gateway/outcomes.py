"""What became of requests and how long they took: the layout of the cells that count it, and the counting.

The cells of one engine (or of one model, for what no engine has answered) are a block of 64-bit integers, see
`shoal.gateway.counters`::

    answers        one cell per code, not streamed, then one per code, streamed
    3 histograms   one cell per bucket, the last one without a bound, then the sum in nanoseconds

All of it is on the hot path: an observation is one search in a tuple and two additions, about a quarter of a
microsecond. Streams are not timed event by event: their first event is, and their end. The commonest answers, of status
200 and no streams, are not counted twice: they are what the histogram of whole answers has beyond the others' cells.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

CLIENT_GONE = 499
"""Code of a request whose client went away before its answer was complete, as in nginx's log."""

_CODES = (200, 400, 401, 403, 404, 408, 413, 422, 429, CLIENT_GONE, 500, 501, 502, 503, 504)
_CLASSES = ("2xx", "3xx", "4xx", "5xx")  # what any other code is counted as: labels must stay few
CODES = (*map(str, _CODES), *_CLASSES)
"""Values of the label ``code``."""

_CELL_OF = bytes(
    _CODES.index(code) if code in _CODES else len(_CODES) + min(max(code // 100, 2), 5) - 2
    for code in range(600)
)

# Bounds in seconds. Those of vLLM 0.32 (``v1/metrics/loggers.py``) are among them, so that what engines say and what
# gateways saw can be laid upon each other; the smallest are ours, for small models and embeddings.
FIRST_EVENT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
BETWEEN_EVENTS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
WHOLE = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0,
    60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip


def _ns(bounds: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(bound * 1e9) for bound in bounds)


_FIRST_NS, _BETWEEN_NS, _WHOLE_NS = _ns(FIRST_EVENT), _ns(BETWEEN_EVENTS), _ns(WHOLE)

_STREAMED = len(CODES)
_FIRST = 2 * len(CODES)
_FIRST_SUM = _FIRST + len(FIRST_EVENT) + 1
_BETWEEN = _FIRST_SUM + 1
_BETWEEN_SUM = _BETWEEN + len(BETWEEN_EVENTS) + 1
_WHOLE = _BETWEEN_SUM + 1
_WHOLE_SUM = _WHOLE + len(WHOLE) + 1

WIDTH = _WHOLE_SUM + 1
"""Cells of a block."""


def count_whole(cells: memoryview, block: int, took: int) -> None:
    """Count an answer of status 200 that is no stream: the commonest case.

    Args:
        cells: the worker's row.
        block: where the block of its engine begins.
        took: nanoseconds.
    """
    cells[block + _WHOLE + bisect_left(_WHOLE_NS, took)] += 1
    cells[block + _WHOLE_SUM] += took


def count(cells: memoryview, block: int, status: int, streamed: bool, took: int) -> None:
    """Count an answer; its time, too, where it is a good one: refusals are quick, and say nothing of the engine.

    Args:
        cells: the worker's row.
        block: where the block begins.
        status: its HTTP status, or `CLIENT_GONE`.
        streamed: it was asked for as a stream.
        took: nanoseconds.
    """
    if streamed or status != 200:
        cells[block + _CELL_OF[status] + (_STREAMED if streamed else 0)] += 1
    if status < 400:
        count_whole(cells, block, took)


def count_code(cells: memoryview, block: int, status: int, streamed: bool) -> None:
    """Count an answer that no engine has given."""
    count(cells, block, status, streamed, 0)


def count_first(cells: memoryview, block: int, took: int) -> None:
    """Count the first event of a stream, which came `took` nanoseconds after its request."""
    cells[block + _FIRST + bisect_left(_FIRST_NS, took)] += 1
    cells[block + _FIRST_SUM] += took


def count_gaps(cells: memoryview, block: int, gaps: int, took: int) -> None:
    """Count the gaps between the events of a stream, all with their mean, when it has ended.

    Args:
        cells: the worker's row.
        block: where the block of its engine begins.
        gaps: how many, at least 1.
        took: nanoseconds, all of them together.
    """
    cells[block + _BETWEEN + bisect_left(_BETWEEN_NS, took // gaps)] += gaps
    cells[block + _BETWEEN_SUM] += took


class Histogram(msgspec.Struct, frozen=True):
    """A histogram as it is read.

    Attributes:
        bounds: upper bounds of its buckets in seconds, without +Inf.
        counts: observations by bucket, not added up; the last one has no bound.
        total: sum of the observations in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Outcome(msgspec.Struct, frozen=True):
    """What a block says, all workers together.

    Attributes:
        answers: (code, streamed) -> how many; zeros left out.
        first: seconds to the first event of streams.
        between: mean seconds between the events of a stream, once for each gap.
        whole: seconds to the end of good answers.
    """

    answers: dict[tuple[str, bool], int]
    first: Histogram
    between: Histogram
    whole: Histogram


def read(block: Sequence[int]) -> Outcome:
    """Return what the cells of a block say."""
    cells = list(block[:_FIRST])
    good = [i for i, code in enumerate(CODES) if code in ("200", "2xx", "3xx")]
    counted = sum(cells[i] + cells[i + _STREAMED] for i in good)
    cells[0] = sum(block[_WHOLE:_WHOLE_SUM]) - counted
    answers = {
        (code, streamed): cells[i + streamed * _STREAMED]
        for i, code in enumerate(CODES)
        for streamed in (False, True)
        if cells[i + streamed * _STREAMED]
    }

    def histogram(start: int, bounds: tuple[float, ...]) -> Histogram:
        end = start + len(bounds) + 1
        return Histogram(bounds, tuple(block[start:end]), block[end] / 1e9)

    return Outcome(
        answers,
        histogram(_FIRST, FIRST_EVENT),
        histogram(_BETWEEN, BETWEEN_EVENTS),
        histogram(_WHOLE, WHOLE),
    )
