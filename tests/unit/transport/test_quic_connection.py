"""What is added to aioquic's connection, with datagrams passed by hand: loss, repair, a peer that moves."""

import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from shoal.cluster.pki import SERVER_NAME, Authority
from shoal.transport.quic import congestion
from shoal.transport.quic.connection import WINDOW, Connection

RTT = 0.08
CLIENT, SERVER = ("192.0.2.1", 1), ("192.0.2.2", 2)


class Wire:
    """Two connections with a path between them that is slow and loses what it is told to.

    Attributes:
        now: the time of both.
        got: what came on each stream at the client: bytes and when.
        sent: datagrams from the server.
    """

    def __init__(self, directory: Path, lose: Callable[[int], bool] = lambda _: False) -> None:
        self.now = 1.0
        self.lose = lose
        self.sent = 0
        self.client_address = CLIENT
        self._late: list[tuple[float, Connection, bytes, tuple[str, int]]] = []
        self.got: dict[int, list[tuple[float, bytes]]] = {}
        self.asked: set[int] = set()
        authority = Authority("c", "a secret of the cluster")
        for name in ("a", "b"):
            pair = authority.issue(name)
            (directory / f"{name}.pem").write_bytes(pair.certificate)
            (directory / f"{name}.key").write_bytes(pair.key)
        (directory / "ca.pem").write_bytes(authority.certificate)
        self.client = self._connection(directory, "a", is_client=True)
        self.client.connect(SERVER, self.now)
        self.server = self._connection(
            directory,
            "b",
            is_client=False,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.run(lambda: self.client._handshake_confirmed)

    def _connection(self, directory: Path, name: str, *, is_client: bool, **more: object) -> Connection:
        made = QuicConfiguration(
            alpn_protocols=["t"],
            is_client=is_client,
            server_name=SERVER_NAME,
            max_stream_data=WINDOW,
            idle_timeout=30,
        )
        made.load_cert_chain(directory / f"{name}.pem", directory / f"{name}.key")
        made.load_verify_locations(str(directory / "ca.pem"))
        return Connection(configuration=made, clock=lambda: self.now, **more)

    def send(self) -> None:
        """Send what is to be sent."""
        for end, other, source in (
            (self.client, self.server, self.client_address),
            (self.server, self.client, SERVER),
        ):
            if end.get_peer_address() is None:
                continue  # the server before the first datagram
            for data, address in end.datagrams_to_send(self.now):
                if end is self.server:
                    self.sent += 1
                    if address != self.client_address or self.lose(self.sent):
                        continue
                self._late.append((self.now + RTT / 2, other, data, source))

    def take(self, now: float) -> None:
        """Have happen what happens at a moment."""
        self.now = (
            max(self.now, now) + 1e-6
        )  # aioquic's sums of times are rounded: at the very moment it does nothing
        due = [entry for entry in self._late if entry[0] <= self.now]
        self._late = self._late[len(due) :]  # all are late by the same time, so they are in order
        for _, end, data, source in due:
            end.receive_datagram(data, source, self.now)
        for end in (self.client, self.server):
            if self._timer(end) <= self.now:
                end.handle_timer(self.now)
            while (event := end.next_event()) is not None:
                assert not isinstance(event, events.ConnectionTerminated), event
                if isinstance(event, events.StreamDataReceived):
                    if end is self.client:
                        self.got.setdefault(event.stream_id, []).append((self.now, event.data))
                    else:
                        self.asked.add(event.stream_id)

    def run(self, until: Callable[[], object], limit: float = 60.0) -> None:
        """Go on until something is so."""
        end = self.now + limit
        while not until():
            self.send()
            self.take(self._next())
            assert self.now < end, "it did not come to that"

    def go_on(self, seconds: float) -> None:
        """Go on for some time."""
        until = self.now + seconds
        self.send()
        while (due := self._next()) <= until:
            self.take(due)
            self.send()
        self.now = until

    def _next(self) -> float:
        return min(
            [entry[0] for entry in self._late] + [self._timer(end) for end in (self.client, self.server)]
        )

    def _timer(self, end: Connection) -> float:
        at = None if end.get_peer_address() is None else end.get_timer()
        return math.inf if at is None else at

    def open(self) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_stream_data(stream, b"ask", True)
        self.run(lambda: stream in self.asked)
        return stream


def gaps(wire: Wire, stream: int) -> list[float]:
    times = [at for at, data in wire.got[stream] for _ in range(data.count(b"."))]
    return [late - early for early, late in itertools.pairwise(times)]


def tokens(wire: Wire, stream: int, count: int, every: float = 0.02) -> None:
    for number in range(count):
        wire.server.send_stream_data(stream, b"%05d" % number + b"x" * 200 + b".", number == count - 1)
        wire.go_on(every)


def body(wire: Wire, stream: int) -> bytes:
    return b"".join(data for _, data in wire.got.get(stream, ()))


def test_a_lost_token_comes_with_the_next_one_where_the_path_is_known_to_lose_some(tmp_path: Path) -> None:
    chance = random.Random(3)
    wire = Wire(tmp_path)
    wire.lose = lambda _: chance.random() < 0.02
    stream = wire.open()
    tokens(wire, stream, 600)
    wire.run(lambda: body(wire, stream).count(b".") == 600)
    expected = b"".join(b"%05d" % n + b"x" * 200 + b"." for n in range(600))
    assert body(wire, stream) == expected
    seen = sorted(gaps(wire, stream))
    assert wire.server.lossy
    assert seen[int(0.99 * len(seen))] < 0.05  # after a round trip it would be 0.1 and more


def test_nothing_is_sent_twice_on_a_path_that_loses_nothing(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    stream = wire.open()
    tokens(wire, stream, 50)
    wire.run(lambda: body(wire, stream).count(b".") == 50)
    assert not wire.server.lossy
    assert max(gaps(wire, stream)) < 0.03


@pytest.mark.parametrize("seed", range(20))
def test_streams_arrive_whole_whatever_gets_lost(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    wire = Wire(tmp_path)
    wire.lose = lambda _: chance.random() < 0.2
    streams = [wire.open() for _ in range(5)]
    sent = dict.fromkeys(streams, b"")
    for number in range(200):
        stream = chance.choice(streams)
        piece = chance.randbytes(chance.choice((0, 1, 90, 700, 3000)))
        sent[stream] += piece
        wire.server.send_stream_data(stream, piece)
        if number % 3 == 0:
            wire.go_on(chance.random() * 0.05)
    for stream in streams:
        wire.server.send_stream_data(stream, b"", True)
    wire.run(lambda: all(body(wire, s) == sent[s] for s in streams if sent[s]))


def test_a_peer_that_moves_keeps_its_connection(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    stream = wire.open()
    tokens(wire, stream, 20)
    wire.client_address = ("198.51.100.7", 4711)  # another NAT binding
    wire.client.send_ping(1)
    wire.run(lambda: wire.server.get_peer_address() == wire.client_address)
    other = wire.open()
    tokens(wire, other, 20)
    wire.run(lambda: body(wire, other).count(b".") == 20)


def test_the_window_of_a_stream_opens_as_its_reader_takes(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    stream = wire.open()
    unread = 0
    wire.client.readers[stream] = lambda: unread
    wire.server.send_stream_data(stream, bytes(4 * WINDOW))
    unread = WINDOW  # nothing is taken
    wire.run(lambda: len(body(wire, stream)) == WINDOW)
    wire.go_on(3.0)
    assert len(body(wire, stream)) == WINDOW
    unread = 0
    wire.run(lambda: len(body(wire, stream)) >= 2 * WINDOW)


def test_the_congestion_window_keeps_room_for_every_open_stream() -> None:
    control = congestion.StreamsCubic(max_datagram_size=1200)
    control.streams = lambda: 20
    control.on_packets_lost(now=1.0, packets=())
    assert control.congestion_window >= 20 * congestion.PER_STREAM * 1200
    control.on_persistent_congestion()
    assert control.congestion_window < 20 * congestion.PER_STREAM * 1200
