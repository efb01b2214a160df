"""The bad link: what goes in at one end comes out of the other, late, and some of it never."""

import os
import select
import socket
import threading
import time

from benchmarks.transport.lossy import Forwarder


def ends() -> tuple[socket.socket, socket.socket]:
    """Return what stands for a device: whole packets in and out; ours, and the forwarder's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    ours.settimeout(20)
    return ours, theirs


def through(count: int, delay: float, loss: float, seed: int = 1) -> tuple[list[bytes], float, Forwarder]:
    """Send `count` packets one way; return what came, seconds until the first did, and the forwarder."""
    left, left_device = ends()
    right, right_device = ends()
    stop, stopper = os.pipe()
    forwarder = Forwarder([(left_device.fileno(), right_device.fileno())], delay, loss, seed=seed)
    thread = threading.Thread(target=forwarder.run, args=(stop,))
    thread.start()
    began, first, got = time.monotonic(), 0.0, []
    for number in range(count):
        left.send(b"%d" % number)
    while len(got) + forwarder.lost < count or select.select([right], [], [], 0)[0]:
        if select.select([right], [], [], 0.1)[0]:
            got.append(right.recv(100))
            first = first or time.monotonic() - began
    os.close(stopper)
    thread.join(timeout=20)
    os.close(stop)
    for one in (left, left_device, right, right_device):
        one.close()
    return got, first, forwarder


def test_packets_come_in_order_and_not_before_their_time() -> None:
    got, first, _ = through(100, delay=0.05, loss=0.0)
    assert got == [b"%d" % number for number in range(100)]
    assert first >= 0.05


def test_about_the_share_that_was_asked_for_gets_lost() -> None:
    lost = 0
    for seed in range(20):
        got, _, forwarder = through(100, delay=0.0, loss=0.1, seed=seed)
        assert forwarder.lost + len(got) == 100
        lost += forwarder.lost
    assert 140 < lost < 260
