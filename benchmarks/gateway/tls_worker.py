"""A gateway worker alone, routing to engines of a cluster: ``python -m benchmarks.gateway.tls_worker JSON``.

`shoal serve` takes engines that run already for somebody else's, which speak no mutual TLS. This tells a worker what a
node process would tell it of engines of its own, once, and then sleeps.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from shoal.gateway import affinity, counters
from shoal.gateway.messages import Credentials, WorkerSettings
from shoal.node.listening import listening_sockets
from shoal.node.worker_process import WorkerProcess
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable

_HOST = "127.0.0.1"
_MODEL = "bench"
_MIB = 1024 * 1024


class Given(msgspec.Struct):
    """What the worker is to do.

    Attributes:
        port: to listen on.
        engines: ports of the engines.
        keepalive: idle connections kept to each.
        credentials: for TLS to the engines; None for plain HTTP.
    """

    port: int
    engines: list[int]
    keepalive: int = 256
    credentials: Credentials | None = None


async def serve(given: Given) -> None:
    """Run the worker until this process is ended."""
    authorities = {} if given.credentials is None else {"bench": given.credentials}
    settings = WorkerSettings(
        index=0,
        workers=1,
        node=_MODEL,
        host=_HOST,
        port=given.port,
        control_socket="/nowhere",
        keepalive=given.keepalive,
        authorities=authorities,
    )
    engines = tuple(
        EngineTarget(
            id=f"bench/{i}",
            slot=i,
            host=_HOST,
            port=port,
            token_ids=True,
            authority=next(iter(authorities), ""),
        )
        for i, port in enumerate(given.engines)
    )
    route = ModelRoute(model=_MODEL, policy="least_connections", engines=engines)
    worker = WorkerProcess(settings, print, print, print, lambda: sys.exit("the worker has ended"))
    (listening,) = listening_sockets(_HOST, given.port, 1)
    table = RoutingTable(version=1, routes={_MODEL: route})
    await worker.start(listening, counters.create(1), affinity.create(1, _MIB), table)
    await worker.ended()


if __name__ == "__main__":
    asyncio.run(serve(msgspec.json.decode(sys.argv[1].encode(), type=Given)))
