"""Which carrier a node has, by its protocol."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from shoal.transport.contract import Carrier
from shoal.transport.directory import Directory
from shoal.transport.loopback import Loopback
from shoal.transport.messages import RelaySettings
from shoal.transport.queued.make import queued
from shoal.transport.quic.carrier import QuicCarrier
from shoal.transport.serving import Serving


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a carrier is made of.

    Attributes:
        settings: of the relay.
        directory: the engines there are, those of this node and of others.
        handler: has an engine of this node answer a call; see `Serving.room` for who should not be asked.
        udp: the node's socket for QUIC, bound; only with ``protocol: udp``.
    """

    settings: RelaySettings
    directory: Directory
    handler: Serving
    udp: socket.socket | None = None


@runtime_checkable
class PerNode(Protocol):
    """A carrier that may reach some nodes and not others."""

    def trouble_with(self, node: str) -> str | None:
        """Why calls to this node's engines cannot be carried just now, None where they can; "" if not known yet."""


def make(around: Surroundings) -> Carrier:
    """Return the carrier of ``settings.protocol``, not yet started.

    Raises:
        ValueError: there is none.
    """
    protocol = around.settings.protocol
    match protocol:
        case "loopback":  # no setting of the configuration: tests of the relay use it
            return Loopback(around.handler)
        case "udp" if around.udp is not None:
            return QuicCarrier(around.settings, around.directory, around.handler, around.udp)
        case "rabbitmq" | "kafka":
            return queued(around)
    raise ValueError(f"there is no carrier for communication.protocol {protocol!r}")
