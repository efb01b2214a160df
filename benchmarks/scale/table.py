"""The routing table of a cluster: working it out, its size, and how long it takes until a gateway worker has it."""

from __future__ import annotations

import socket
import statistics
import time
from typing import NamedTuple

import msgspec

from benchmarks.scale.cluster import ENGINE, configuration, view
from shoal.cluster.view import full_id
from shoal.gateway import counters
from shoal.gateway.messages import TableUpdate, ToWorker
from shoal.node.slots import Slots
from shoal.node.tables import routing_table


class TableCost(NamedTuple):
    """What a table costs.

    Attributes:
        make: seconds of CPU to work it out.
        size: bytes as it is sent.
        push: seconds from a worker's update in the node process to the decoded table, through a socket pair.
    """

    make: float
    size: int
    push: float


def table_cost(names: list[str], repeats: int) -> TableCost:
    """Measure a cluster of these nodes, with an engine each; medians of some repeats."""
    config, seen, slots = configuration(names), view(names), Slots(counters.SLOTS)
    answers = {full_id(name, ENGINE): True for name in names}
    makes, pushes, size = [], [], 0
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(ToWorker)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(repeats):
            began = time.process_time()
            table = routing_table(config, seen, version=1, slot=slots, answers=answers)
            makes.append(time.process_time() - began)
            began = time.process_time()
            payload = encoder.encode(TableUpdate(table))
            size = len(payload)
            view_left = memoryview(payload)
            received = bytearray()
            while len(received) < size:
                sent = ours.send(view_left[:65536]) if view_left else 0
                view_left = view_left[sent:]
                received += theirs.recv(65536)
            decoder.decode(received)
            pushes.append(time.process_time() - began)
    return TableCost(statistics.median(makes), size, statistics.median(pushes))
