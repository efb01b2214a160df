"""A bad link for everything that is IP: packets that go into one TUN device come out of another, late, and some never.

Real packets get lost, TCP's as QUIC's, and each end's own recovery has to cope: that is why this is below them and no
proxy. Needs root and /dev/net/tun, and none of the kernel's netem.

``python -m benchmarks.transport.lossy --fds 5,6 --delay 0.04 --loss 0.01`` forwards between the devices behind the
descriptors 5 and 6 until its standard input ends.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import sys
import time

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MTU = 65536
_AT_ONCE = 64


def tun(name: str) -> int:
    """Return a descriptor of a new TUN device; packets are read and written whole. Raises OSError."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Forwarder:
    """Forwards packets between pairs of devices.

    Args:
        pairs: descriptors of both ends of each link.
        delay: seconds, each way.
        loss: share of packets lost, each way.
        seed: of what gets lost.
    """

    def __init__(self, pairs: list[tuple[int, int]], delay: float, loss: float, seed: int) -> None:
        self._other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
        self._delay = delay
        self._loss = loss
        self._random = random.Random(seed)
        self._late: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()
        self.forwarded = self.lost = 0

    def run(self, until: int) -> None:
        """Forward until there is something to be read from the descriptor `until`."""
        poll = select.epoll()
        for descriptor in (*self._other, until):
            poll.register(descriptor, select.EPOLLIN)
        while True:
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else -1.0
            for descriptor, _ in poll.poll(wait):
                if descriptor == until:
                    return
                self._take(descriptor)
            self._give()

    def _take(self, descriptor: int) -> None:
        due = time.monotonic() + self._delay
        with contextlib.suppress(BlockingIOError):
            for _ in range(_AT_ONCE):
                packet = os.read(descriptor, _MTU)
                if self._random.random() < self._loss:
                    self.lost += 1
                else:
                    entry = (due, next(self._order), self._other[descriptor], packet)
                    heapq.heappush(self._late, entry)

    def _give(self) -> None:
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            _, _, descriptor, packet = heapq.heappop(self._late)
            with contextlib.suppress(OSError):  # its device is being removed
                os.write(descriptor, packet)
                self.forwarded += 1


def main() -> None:
    """Forward until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fds", required=True)
    parser.add_argument("--delay", type=float, required=True)
    parser.add_argument("--loss", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    found = parser.parse_args()
    ends = [int(word) for word in found.fds.split(",")]
    forwarder = Forwarder(_pairs(ends), found.delay, found.loss, found.seed)
    forwarder.run(sys.stdin.fileno())
    print(f"{forwarder.forwarded} forwarded, {forwarder.lost} lost", flush=True)


def _pairs(ends: list[int]) -> list[tuple[int, int]]:
    return list(zip(ends[::2], ends[1::2], strict=True))


if __name__ == "__main__":
    main()
