"""Two sockets on a node's UDP port: heartbeats come to one, QUIC's datagrams to the other, sorted by the kernel.

Both are of one SO_REUSEPORT group, whose members the kernel picks by a classic BPF program over the datagram: its first
byte tells which it is (see `shoal.cluster.wire`). No privileges are needed, nothing is passed on between processes, and
either goes on while nobody reads the other. Linux only, as the rest of Shoal.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h
_RECEIVE_BUFFER: Final = 4 << 20
_QUIC_BITS: Final = 0b1100_0000  # every QUIC packet has one of them set (RFC 9000, section 17)


def beside(first: socket.socket) -> socket.socket:
    """Return a socket on the same address as `first` that gets QUIC's datagrams in its place from now on.

    `first` was bound without SO_REUSEPORT, so that a port that somebody has is never shared by accident; it begins to
    share here.

    Raises:
        OSError: the kernel does not let them.
    """
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    second = socket.socket(first.family, socket.SOCK_DGRAM)
    try:
        second.setblocking(False)
        if first.family == socket.AF_INET6:
            second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _RECEIVE_BUFFER)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.bind(first.getsockname())
        split(second, quic=1)
    except OSError:
        second.close()
        raise
    return second


def split(member: socket.socket, *, quic: int) -> None:
    """Sort the datagrams of a group.

    Args:
        member: any socket of it.
        quic: place of the socket for QUIC in the order in which the two were bound, 0 or 1.

    Raises:
        OSError: the kernel does not take the program.
    """
    program = (
        (0x30, 0, 0, 0),  # ldb [0]: the first byte behind the UDP header
        (0x45, 0, 1, _QUIC_BITS),  # jset: next, else skip one
        (0x06, 0, 0, quic),  # ret
        (0x06, 0, 0, 1 - quic),  # ret
    )
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("HL", len(program), ctypes.addressof(buffer))
    member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filter_)
