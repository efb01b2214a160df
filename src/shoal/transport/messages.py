"""What the node process and its relay say to each other, over the same kind of channel as gateway workers have."""

from __future__ import annotations

import msgspec

from shoal.gateway.messages import Credentials


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True, tag="settings"):
    """First message to the relay. Times in seconds.

    Attributes:
        protocol: ``udp``, ``rabbitmq`` or ``kafka``: which carrier it has.
        node: name of the node, ``host:port``.
        cluster: name of the cluster.
        credentials: what carriers between nodes show and demand.
        authorities: for connections to engines, by the name of their certificate authority.
        connect_timeout: for a connection to an engine.
        timeout: silence after which a peer is given up.
        max_wait: for a request that is not batch to be begun by an engine, ``admission.max_wait``.
        options: the configuration's section ``communication.broker`` as plain data, where there is one.
        nodes: how many nodes the configuration has.
        incarnation: start of this relay, ms since the epoch: others tell it from the one before.
    """

    protocol: str
    node: str
    cluster: str
    credentials: Credentials
    authorities: dict[str, Credentials] = {}
    connect_timeout: float = 1.0
    timeout: float = 30.0
    max_wait: float = 60.0
    options: dict[str, object] = {}
    nodes: int = 1
    incarnation: int = 0


class RelayEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine of the cluster.

    Attributes:
        id: cluster-wide id, ``node/engine``.
        model: the model's name in the configuration.
        host: address it listens on, as this node reaches it.
        port: TCP port of that.
        authority: it speaks mutual TLS under this authority; "" for plain HTTP.
        capacity: requests it should have at most, 0 for no limit.
        local: it runs on this node.
        socket: unix socket on which the relay takes requests for it, "" for none.
    """

    id: str
    model: str
    host: str
    port: int
    authority: str = ""
    capacity: int = 0
    local: bool = False
    socket: str = ""

    @property
    def node(self) -> str:
        """Name of its node, ``host:port``."""
        return self.id.rpartition("/")[0]


class RelayTable(msgspec.Struct, frozen=True, tag="table"):
    """All engines that get requests, in place of those of the last message."""

    engines: tuple[RelayEngine, ...]


ToRelay = RelaySettings | RelayTable


class RelayState(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """What the relay can do now; sent when it changes, and once a second as a sign of life.

    Attributes:
        listening: ids of the engines for which it takes requests on their sockets.
        trouble: why the carrier carries nothing, "" where it does.
        away: why it carries nothing to some nodes, by their names; "" where that is not known yet.
    """

    listening: tuple[str, ...] = ()
    trouble: str = ""
    away: dict[str, str] = {}


class RelayNotice(msgspec.Struct, frozen=True, tag="notice"):
    """Something people should know of.

    Attributes:
        text: a sentence.
        level: ``info`` or ``warning``.
    """

    text: str
    level: str = "info"


class RelayCounts(msgspec.Struct, frozen=True, tag="counts"):
    """Requests since the relay began; sent once a second where they have changed.

    Attributes:
        asked: those of this node's gateway, by what became of them: ``carried`` (an engine answered by the protocol),
            ``by_tcp`` (an engine was asked without it), ``late`` (nobody began it in time) or ``failed``.
        served: those that the protocol brought to engines of this node.
    """

    asked: dict[str, int] = {}
    served: int = 0


FromRelay = RelayState | RelayCounts | RelayNotice
