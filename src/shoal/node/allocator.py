"""Settings of glibc's malloc for a node process, which others ignore (mallopt(3)).

By default every thread gets an arena of its own, which keeps what was freed in it, and a buffer of some megabytes that
is freed makes malloc keep buffers of that size from then on. A node that takes in a file of gigabytes has a dozen
threads and holds a few such buffers at a time: its memory rose by 99 MB that way from a batch of 1 GB to one of 10 GB,
and by 13 MB with these settings (`make bench-memory`).
"""

from __future__ import annotations

import ctypes
import os

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_LARGE = 512 << 10  # bytes from which on a buffer goes back to the kernel when it is freed
_ARENAS = 2


def return_memory() -> None:
    """Have freed memory go back to the kernel; whoever sets MALLOC_... or GLIBC_TUNABLES in the environment decides."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_ARENA_MAX, _ARENAS)
