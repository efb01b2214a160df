"""Counters that gateway workers and their node process share: one memory map, no locks, no messages.

The map holds 64-bit integers. Every cell has exactly one writer, so an aligned store is all the care it needs::

    in flight   rows 0..W-1 of the workers, row W of the other nodes' gateways; one column per engine slot
    metrics     W rows: totals and gauges of a worker, then requests per slot, then faults per slot, then requests
                that wait, one column per model slot
    outcomes    W rows: what became of requests, one block of cells (`shoal.gateway.outcomes`) per engine slot, then
                one per model slot, then one for the rest
    elsewhere   1 row: gateway workers of other nodes in which requests wait, one column per model slot

The node process creates the map (`create`), hands the descriptor to every worker, assigns slots to engines and to
models, writes the last in-flight row and the last of all, and reads everything. A worker writes its own rows only.

A slot must not be given to another engine while requests of the former one are open; `SharedMetrics.per_engine`
totals of a slot go on when it is given away, so keep the value it had at that moment and subtract it.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Mapping

import msgspec

from shoal.gateway import outcomes
from shoal.gateway.outcomes import WIDTH, Outcome

SLOTS = 1024
"""Engines that can be counted at once."""

_CELL = 8  # bytes of an int64


class Cell:
    """Totals and gauges of one worker, by their place in its metrics row. (Plain ints: they are on the hot path.)

    `REQUESTS` cells are totals of answered requests: plus ``2 * (status // 100 - 2)``, plus 1 for streamed ones.
    """

    REQUESTS = 0  # 8 cells: 2xx, 2xx streamed, 3xx, 3xx streamed, ... 5xx streamed
    RETRIES = 8  # requests moved to another engine
    STALE_RETRIES = 9  # requests repeated on a new connection because an idle one had been closed
    UPSTREAM_FAULTS = 10  # engines that refused, reset, or cut a connection
    TRUNCATED = 11  # responses that broke off after their first byte had reached the client
    CLIENT_DISCONNECTS = 12  # clients that went away before their answer was complete
    BAD_REQUESTS = 13  # requests refused because they are no proper HTTP; also among the REQUESTS
    CONNECTIONS = 14  # client connections accepted
    BYTES_IN = 15  # bodies of requests to engines
    BYTES_OUT = 16  # responses of engines, heads included
    OPEN_CONNECTIONS = 17  # gauge
    RESUMES = 18  # times a stream went on on another engine
    BROKEN_STREAMS = 19  # streams that ended with an error event because no engine could go on
    EJECTIONS = 20  # times an engine was tried last for a while because of its faults
    QUEUED = 24  # requests that waited for an engine and got one
    QUEUE_MICROSECONDS = 25  # that they waited, together
    QUEUE_REFUSALS = 26  # requests for which there was no place in the queue, or none any longer (429)
    QUEUE_TIMEOUTS = 27  # requests that waited too long (503)
    QUEUE_DEPARTURES = 28  # requests whose client went away while they waited


_TOTALS = 32  # cells kept for `Cell`, some free
_METRICS_ROW = _TOTALS + 3 * SLOTS
_OUTCOMES_ROW = (2 * SLOTS + 1) * WIDTH

NO_MODEL = 2 * SLOTS * WIDTH
"""Where the block begins for requests that are for no model there is, or for none at all."""


def engine_block(slot: int) -> int:
    """Return where the block of the engine that has `slot` begins."""
    return slot * WIDTH


def model_block(slot: int) -> int:
    """Return where the block begins of the requests, for the model that has `slot`, that no engine has answered."""
    return (SLOTS + slot) * WIDTH


def _size(workers: int) -> int:
    # The pages of blocks that nobody uses are never there.
    return _CELL * ((workers + 1) * SLOTS + workers * (_METRICS_ROW + _OUTCOMES_ROW) + SLOTS)


def create(workers: int, more: int = 0) -> int:
    """Return the descriptor of a new map for `workers` workers, with `more` bytes behind it, all zero.

    It is inheritable only through ``pass_fds`` and lives as long as somebody holds it.
    """
    fd = os.memfd_create("shoal-counters", os.MFD_CLOEXEC)
    os.ftruncate(fd, _size(workers) + more)
    return fd


def _cells(fd: int, workers: int) -> memoryview:
    return memoryview(mmap.mmap(fd, _size(workers))).cast("q")


class InFlight:
    """Open requests of every engine over all gateways of the cluster, counted at dispatch.

    Args:
        fd: descriptor of the map; may be closed afterwards.
        workers: as given to `create`.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self.workers = workers
        self._cells = _cells(fd, workers)[: (workers + 1) * SLOTS]

    def load(self, slot: int) -> int:
        """Return the open requests of the engine that has `slot`."""
        return sum(self.column(slot))

    def column(self, slot: int) -> memoryview:
        """Return the cells of `slot`, one per row: their sum is its load."""
        return self._cells[slot::SLOTS]

    def row(self, index: int) -> memoryview:
        """Return the writable cells of one worker (the row after the last worker's: of all other nodes)."""
        return self._cells[index * SLOTS : (index + 1) * SLOTS]

    def own(self) -> bytes:
        """Return a copy of all cells of this node's own workers, to see by it whether anything has changed."""
        return self._cells[: self.workers * SLOTS].tobytes()

    def clear(self, index: int) -> None:
        """Zero a row, for instance that of a worker that has died."""
        self.row(index)[:] = memoryview(array("q", bytes(SLOTS * _CELL)))

    def set_remote(self, loads: Mapping[int, int]) -> None:
        """Write what other nodes' gateways have open, by slot; slots not named get 0."""
        row = array("q", bytes(SLOTS * _CELL))
        for slot, load in loads.items():
            row[slot] = load
        self.row(self.workers)[:] = memoryview(row)

    def local(self, slot: int) -> int:
        """Return the open requests that this node's own workers have at `slot` (what goes into heartbeats)."""
        return sum(self.column(slot)[: self.workers])


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics summed over a node's workers. Names and meaning as in `Cell`.

    Attributes:
        requests: (status class such as ``2xx``, streamed) -> answered requests.
        open_requests: requests that engines hold for this node's workers now.
    """

    requests: dict[tuple[str, bool], int]
    retries: int
    stale_retries: int
    upstream_faults: int
    truncated: int
    client_disconnects: int
    bad_requests: int
    connections: int
    bytes_in: int
    bytes_out: int
    open_connections: int
    resumes: int
    broken_streams: int
    ejections: int
    queued: int
    queue_microseconds: int
    queue_refusals: int
    queue_timeouts: int
    queue_departures: int
    open_requests: int


class SharedMetrics:
    """What workers have counted since the node process started; totals survive the restart of a worker.

    Args:
        fd: descriptor of the map; may be closed afterwards.
        workers: as given to `create`.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self.workers = workers
        cells = _cells(fd, workers)
        self._in_flight = cells[: workers * SLOTS]
        self._cells = cells[(workers + 1) * SLOTS :][: workers * _METRICS_ROW]
        self._outcomes = cells[(workers + 1) * SLOTS + workers * _METRICS_ROW : -SLOTS]
        self.elsewhere = cells[-SLOTS:]
        """By model slot: gateway workers of other nodes in which requests wait."""

    def row(self, worker: int) -> memoryview:
        """Return a worker's writable cells, indexed by `Cell`."""
        return self._cells[worker * _METRICS_ROW :][:_TOTALS]

    def engine_requests(self, worker: int) -> memoryview:
        """Return a worker's writable count of dispatched requests by slot."""
        return self._cells[worker * _METRICS_ROW + _TOTALS :][:SLOTS]

    def engine_faults(self, worker: int) -> memoryview:
        """Return a worker's writable count of faults by slot."""
        return self._cells[worker * _METRICS_ROW + _TOTALS + SLOTS :][:SLOTS]

    def outcomes(self, worker: int) -> memoryview:
        """Return a worker's writable blocks of what became of requests."""
        return self._outcomes[worker * _OUTCOMES_ROW :][:_OUTCOMES_ROW]

    def outcome(self, block: int) -> Outcome:
        """Return what became of the requests that are counted in the block that begins at `block`."""
        rows = [self.outcomes(worker)[block : block + WIDTH].tolist() for worker in range(self.workers)]
        return outcomes.read([sum(column) for column in zip(*rows, strict=True)])

    def waiting(self, worker: int) -> memoryview:
        """Return a worker's writable count of requests that wait, batch ones left out, by model slot."""
        return self._cells[worker * _METRICS_ROW + _TOTALS + 2 * SLOTS :][:SLOTS]

    def waiting_column(self, slot: int) -> memoryview:
        """Return the waiting requests of the model that has `slot`, one cell per worker."""
        return self._cells[_TOTALS + 2 * SLOTS + slot :: _METRICS_ROW]

    def set_elsewhere(self, gateways: Mapping[int, int]) -> None:
        """Write in how many workers of other nodes requests wait, by model slot; slots not named get 0."""
        row = array("q", bytes(SLOTS * _CELL))
        for slot, count in gateways.items():
            row[slot] = count
        self.elsewhere[:] = memoryview(row)

    def reset_gauges(self, worker: int) -> None:
        """Zero the gauges of a worker that has just started or died."""
        self.row(worker)[Cell.OPEN_CONNECTIONS] = 0
        self.waiting(worker)[:] = memoryview(array("q", bytes(SLOTS * _CELL)))

    def totals(self) -> Totals:
        """Return the sums over all workers."""
        rows = [self.row(worker).tolist() for worker in range(self.workers)]
        sums = [sum(column) for column in zip(*rows, strict=True)]
        names = [name for name in Totals.__struct_fields__ if name not in ("requests", "open_requests")]
        return Totals(
            requests={
                (f"{status}xx", streamed): sums[Cell.REQUESTS + 2 * (status - 2) + streamed]
                for status in range(2, 6)
                for streamed in (False, True)
            },
            open_requests=sum(self._in_flight.tolist()),
            **{name: sums[getattr(Cell, name.upper())] for name in names},
        )

    def per_engine(self, slot: int) -> tuple[int, int]:
        """Return (requests dispatched, faults) of the engine that has `slot`."""
        workers = range(self.workers)
        return (
            sum(self.engine_requests(worker)[slot] for worker in workers),
            sum(self.engine_faults(worker)[slot] for worker in workers),
        )
