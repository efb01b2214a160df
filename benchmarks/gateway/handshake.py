"""What a handshake costs each end, in CPU time: in one process, without a network."""

from __future__ import annotations

import ssl
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from shoal.cluster.pki import SERVER_NAME
from shoal.gateway.engine_tls import client_context
from shoal.gateway.messages import Credentials

_WARM = 20
_TIMES = 300


@dataclass(frozen=True)
class Cost:
    """Median microseconds of CPU time.

    Attributes:
        client: the gateway's.
        server: the engine's.
    """

    client: float
    server: float


def server_context(given: Credentials) -> ssl.SSLContext:
    """Return the context that uvicorn makes of vLLM's ``--ssl-*`` arguments."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given.certificate, given.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(given.ca)
    return context


def measure(given: Credentials) -> tuple[Cost, Cost]:
    """Return what a whole handshake costs, and one that resumes a session."""
    client, server = client_context(given.ca, given.certificate, given.key), server_context(given)
    whole = [_shake(client, server, None) for _ in range(_WARM + _TIMES)][_WARM:]
    resumed = [_shake(client, server, whole[-1][1]) for _ in range(_WARM + _TIMES)][_WARM:]
    return _median([cost for cost, _ in whole]), _median([cost for cost, _ in resumed])


def _median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(c.client for c in costs), statistics.median(c.server for c in costs))


def _shake(
    client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[Cost, ssl.SSLSession | None]:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    spent = [0.0, 0.0]

    def timed(end: int, action: Callable[[], object]) -> bool:
        begun = time.thread_time()
        try:
            action()
        except ssl.SSLWantReadError:
            return False
        finally:
            spent[end] += time.thread_time() - begun
        return True

    ends: list[ssl.SSLObject] = []
    timed(0, lambda: ends.append(client.wrap_bio(down, up, server_hostname=SERVER_NAME, session=session)))
    timed(1, lambda: ends.append(server.wrap_bio(up, down, server_side=True)))
    done = [False, False]
    while not all(done):
        for end in (0, 1):
            done[end] = done[end] or timed(end, ends[end].do_handshake)
    ends[1].write(b"x")
    timed(0, lambda: ends[0].read(1))  # takes the ticket along
    if session is not None and not ends[0].session_reused:
        raise RuntimeError("the session was not resumed")
    return Cost(spent[0] * 1e6, spent[1] * 1e6), ends[0].session
