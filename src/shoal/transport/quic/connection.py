"""aioquic's connection with what token streams need: clients with certificates, windows that readers open, and repair.

aioquic has no hooks for these, so this relies on its inside: pyproject.toml pins the minor version, and the tests of
this file fail where a new one differs.

- **Mutual TLS**: aioquic's server can ask for a client's certificate, and checks the signature made with its key;
  whether the cluster's authority made it is checked here, before any stream is looked at.
- **Flow control**: aioquic lets peers send on as fast as they can. Here a stream's window opens as its reader takes.
- **Repair**: a token is a few hundred bytes, and nothing comes behind it for a while that would show that it got lost.
  While the path loses packets, what was written just before on a stream, and has not been acknowledged, is sent along
  with what is written now: a lost token comes with the next one, after one token's time and not after a round trip and
  more. (For thin TCP streams this is known as redundant data bundling: Evensen et al., "Redundant bundling in TCP to
  reduce perceived latency for time-dependent thin streams", 2008.)
- **Congestion**: see `shoal.transport.quic.congestion`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aioquic.buffer import UINT_VAR_MAX_SIZE
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream, QuicStreamSender
from aioquic.tls import verify_certificate

from shoal.transport.quic.congestion import ALGORITHM, StreamsCubic

WINDOW: Final = 512 * 1024
"""Bytes of a stream that may be on their way or wait for their reader."""

_STREAMS: Final = 1 << 16  # open at the same time; requests are limited by the gateway, not here
_BUNDLE: Final = 800  # bytes that are sent once more with what follows them, at most
_LOSSY_FOR: Final = 10.0  # s after a loss for which a path counts as one that loses packets
_CAPACITY: Final = 1 + 2 * UINT_VAR_MAX_SIZE


class Untrusted(Exception):  # noqa: N818
    """The peer has no certificate of the cluster; says why."""


class _Sender(QuicStreamSender):
    """The sending part of a stream, which may send small pieces twice.

    aioquic's takes each byte to be under way once; so ranges that overlap what is acknowledged are cut here.
    """

    on_loss: Callable[[], None]

    def __init__(self, stream_id: int | None, writable: bool, on_loss: Callable[[], None]) -> None:
        super().__init__(stream_id=stream_id, writable=writable)
        self.on_loss = on_loss
        self.last_write = 0
        """Where what was written last begins."""

    @property
    def unacknowledged(self) -> int:
        """Bytes written that the peer has not acknowledged."""
        return self._buffer_stop - self._buffer_start

    def bundle(self) -> None:
        """Send what was written last once more, with what is written next, if it is small and may be lost."""
        start, stop = max(self.last_write, self._buffer_start), self._buffer_stop
        if 0 < stop - start <= _BUNDLE and self._reset_error_code is None:
            self._pending.add(start, stop)

    def write(self, data: bytes, end_stream: bool = False) -> None:
        """See `QuicStreamSender.write`."""
        self.last_write = self._buffer_stop
        super().write(data, end_stream)

    def on_data_delivery(self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool) -> None:
        """See `QuicStreamSender.on_data_delivery`."""
        if delivery is not QuicDeliveryState.ACKED:
            self.on_loss()
        start = max(start, self._buffer_start)
        super().on_data_delivery(delivery, start, max(start, stop), fin)
        if len(self._pending) and self._pending[0].start < self._buffer_start:
            self._pending.subtract(self._pending[0].start, self._buffer_start)


class Connection(QuicConnection):
    """One QUIC connection, of a node's relay to another's.

    Args:
        configuration: as aioquic has it.
        clock: the time that is given to aioquic.
        more: see `QuicConnection`.

    Attributes:
        readers: bytes that wait for the reader, by stream; others are read at once.
    """

    def __init__(self, *, configuration: QuicConfiguration, clock: Callable[[], float], **more: Any) -> None:
        configuration.congestion_control_algorithm = ALGORITHM
        super().__init__(configuration=configuration, **more)
        self._clock = clock
        self._lost_at = -_LOSSY_FOR
        self.readers: dict[int, Callable[[], int]] = {}
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = _STREAMS
        control = self._loss._cc
        assert isinstance(control, StreamsCubic)
        control.streams = self._streams.__len__

    # -- mutual TLS

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if not self._is_client:
            self.tls._request_client_certificate = True

    def check_peer(self) -> None:
        """Check a client's certificate once the handshake is complete. (A server's is checked by aioquic.)

        Raises:
            Untrusted: it has none of the cluster.
        """
        if self._is_client:
            return
        certificate = self.tls._peer_certificate
        if certificate is None:
            raise Untrusted("it shows no certificate")
        try:
            verify_certificate(
                certificate=certificate,
                chain=self.tls._peer_certificate_chain,
                cafile=self.configuration.cafile,
                server_name=self.configuration.server_name,
            )
        except Exception as error:  # aioquic's alerts, and what OpenSSL raises
            raise Untrusted(f"its certificate is not of this cluster: {error}") from error

    # -- streams

    @property
    def lossy(self) -> bool:
        """Whether the path has lost a packet lately."""
        return self._clock() - self._lost_at < _LOSSY_FOR

    def waiting(self, stream_id: int) -> int:
        """Return the bytes written to a stream that the peer has not acknowledged."""
        stream = self._streams.get(stream_id)
        return stream.sender.unacknowledged if stream is not None else 0  # type: ignore[attr-defined]

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """See `QuicConnection.send_stream_data`."""
        stream = self._get_or_create_stream_for_send(stream_id)
        if self.lossy:
            stream.sender.bundle()  # type: ignore[attr-defined]
        stream.sender.write(data, end_stream)

    def _note_loss(self) -> None:
        self._lost_at = self._clock()

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        return self._ours(super()._get_or_create_stream(frame_type, stream_id))

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        return self._ours(super()._get_or_create_stream_for_send(stream_id))

    def _ours(self, stream: QuicStream) -> QuicStream:
        sender = stream.sender
        if type(sender) is QuicStreamSender:  # nothing has been written yet
            stream.sender = _Sender(stream.stream_id, not sender.is_finished, self._note_loss)
        return stream

    def _write_stream_limits(self, builder: Any, space: Any, stream: QuicStream) -> None:
        reader = self.readers.get(stream.stream_id)  # type: ignore[arg-type]
        if reader is None:
            super()._write_stream_limits(builder, space, stream)
            return
        receiver = stream.receiver
        limit = receiver.starting_offset() - reader() + WINDOW
        if limit - stream.max_stream_data_local >= WINDOW // 2 and not receiver.is_finished:
            stream.max_stream_data_local = limit
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            buf = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local
