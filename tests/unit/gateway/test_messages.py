"""Messages survive the way through msgpack, and say what they are."""

from __future__ import annotations

import msgspec
import pytest

from shoal.gateway.messages import (
    Drain,
    EngineFault,
    FromWorker,
    TableUpdate,
    ToWorker,
    WorkerFailed,
    WorkerNotice,
    WorkerReady,
    WorkerSettings,
)
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable

TARGET = EngineTarget(
    id="n/m", slot=3, host="::1", port=2, weight=0.5, api_key="k", tls=True, host_header="h"
)
ROUTE = ModelRoute(model="m", policy="round_robin", engines=(TARGET,), pending="soon")


@pytest.mark.parametrize(
    ("union", "message"),
    [
        (ToWorker, WorkerSettings(index=0, workers=1, node="n", host="h", port=1, control_socket="c")),
        (
            ToWorker,
            TableUpdate(
                RoutingTable(version=2, routes={"m": ROUTE}, model_bodies={"m": b"\xff"}, draining=True)
            ),
        ),
        (ToWorker, Drain(2.5)),
        (FromWorker, WorkerReady(1)),
        (FromWorker, WorkerFailed("why")),
        (FromWorker, EngineFault("n/m", "why", 2)),
        (FromWorker, WorkerNotice("text", "info")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trip(union, message):
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=union) == message
