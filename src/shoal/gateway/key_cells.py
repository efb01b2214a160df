"""What the gateway workers of a node and their node process share about API keys, in the map of `counters`.

It lies behind the counters, 64-bit integers, one column per key slot::

    full      2 rows: when the bucket of requests, and that of tokens, is full again (ns of CLOCK_MONOTONIC)
    workers   3 rows for each worker: requests open, requests admitted, tokens charged
    remote    1 row: requests open through other nodes' gateways

A worker writes its own rows, the node process the last one. The *full* rows are written by all of them without a
lock: who is preempted between reading and writing a cell undoes what others spent in the meantime. About one request in
a thousand is lost so where two workers admit 5,000 a second each under the same key (`benchmarks/keys_cost.py`). A lock
would be a system call for each request, and a stalled event loop whenever its holder is preempted.
"""

from __future__ import annotations

import mmap

from shoal.gateway.keys import MAX_KEYS

_CELL = 8  # bytes of an int64
_OPEN, _REQUESTS, _TOKENS, _ROWS = 0, 1, 2, 3  # of a worker


def size(workers: int) -> int:
    """Return the bytes to be kept behind the counters."""
    return _CELL * MAX_KEYS * (2 + _ROWS * workers + 1)


class KeyCells:
    """The cells, by key slot.

    Args:
        fd: descriptor of the map; may be closed afterwards.
        workers: as given to `size`.
    """

    def __init__(self, fd: int, workers: int) -> None:
        whole = memoryview(mmap.mmap(fd, 0))
        cells = whole[len(whole) - size(workers) :].cast("q")
        self.workers = workers
        self.requests_full = cells[:MAX_KEYS]
        self.tokens_full = cells[MAX_KEYS : 2 * MAX_KEYS]
        self._rows = cells[2 * MAX_KEYS :]

    def _row(self, worker: int, what: int) -> memoryview:
        return self._rows[(worker * _ROWS + what) * MAX_KEYS :][:MAX_KEYS]

    def open(self, worker: int) -> memoryview:
        """Return a worker's open requests (the row after the last worker's: those of other nodes)."""
        return self._row(worker, _OPEN)

    def requests(self, worker: int) -> memoryview:
        """Return the requests that a worker has admitted."""
        return self._row(worker, _REQUESTS)

    def tokens(self, worker: int) -> memoryview:
        """Return the tokens that a worker has charged."""
        return self._row(worker, _TOKENS)

    def all_open(self, slot: int) -> int:
        """Return a key's open requests, as far as this node knows through all gateways of the cluster."""
        return sum(self._rows[slot :: _ROWS * MAX_KEYS])

    def totals(self, slot: int) -> tuple[int, int, int]:
        """Return what this node's workers have admitted, charged and open: (requests, tokens, open)."""
        open_, requests, tokens = (
            sum(self._rows[what * MAX_KEYS + slot :: _ROWS * MAX_KEYS][: self.workers])
            for what in (_OPEN, _REQUESTS, _TOKENS)
        )
        return requests, tokens, open_

    def clear_open(self, worker: int) -> None:
        """Forget the open requests of a worker that has died."""
        row = self.open(worker)
        row[:] = memoryview(bytearray(_CELL * MAX_KEYS)).cast("q")

    def refill(self, slot: int) -> None:
        """Give a slot full buckets, for a new key."""
        self.requests_full[slot] = self.tokens_full[slot] = 0
