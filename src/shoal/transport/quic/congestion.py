"""Congestion control for a connection that stands for many: what it gets is as much as they would have had.

With tcp each stream has a connection, and each of those begins with ten packets (RFC 6928). One QUIC connection for all
of them would have ten packets in all, and under 1 % loss hardly more for good (Mathis et al., 1997: 1.22 / sqrt(loss) =
12 per round trip), whatever the number of streams: tokens would queue where tcp's do not. So the window never falls
below `PER_STREAM` packets for each open stream, except where nothing at all comes through. Above that it is CUBIC's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket

ALGORITHM: Final = "shoal-streams"
PER_STREAM: Final = 4
"""Packets in flight that each open stream stands for: a quarter of a second's tokens at any speed people read at."""
_MOST: Final = 512  # packets that this floor comes to at most


class StreamsCubic(CubicCongestionControl):
    """CUBIC with a floor that grows with the number of open streams.

    Attributes:
        streams: returns that number.
    """

    streams: Callable[[], int]

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._packet = max_datagram_size
        self.streams = lambda: 1

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """See `QuicCongestionControl`."""
        super().on_packets_lost(now=now, packets=packets)
        self._hold()

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """See `QuicCongestionControl`."""
        super().on_packet_sent(packet=packet)
        self._hold()

    def _hold(self) -> None:
        least = self._packet * min(_MOST, PER_STREAM * self.streams())
        self.congestion_window = max(self.congestion_window, least)


def _make(*, max_datagram_size: int) -> StreamsCubic:
    return StreamsCubic(max_datagram_size=max_datagram_size)


register_congestion_control(ALGORITHM, _make)
