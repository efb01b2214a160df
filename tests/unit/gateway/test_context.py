"""What a worker's connections share: routes, and how an engine is chosen."""

from __future__ import annotations

import pytest

from shoal.gateway.request import Request
from shoal.routing.table import ModelRoute

REQUEST = Request(
    b"POST", b"/v1/completions", b"POST /v1/completions HTTP/1.1", 0, False, False, True, False, False
)


async def test_policies_survive_a_new_table(stage):
    engines = [await stage.engine() for _ in range(3)]
    await stage.open(*engines)
    for _ in range(9):
        before = stage.gateway.routes["m"].policy
        stage.gateway.apply(stage.table({"m": stage.route(*engines)}))
        assert stage.gateway.routes["m"].policy is before
        await stage.request(stage.post())
    assert [len(engine.seen) for engine in engines] == [3, 3, 3]


async def test_ids_of_one_model_share_its_policy(stage):
    engines = [await stage.engine() for _ in range(2)]
    route = stage.route(*engines)
    await stage.open(table=stage.table({"m": route, "lora": route}))
    for body in (b'{"model":"m"}', b'{"model":"lora"}') * 3:
        await stage.request(stage.post(body))
    assert [len(engine.seen) for engine in engines] == [3, 3]
    assert len(engines[0].connections) == 1


async def test_a_changed_policy_is_used(stage):
    engines = [await stage.engine() for _ in range(2)]
    await stage.open(*engines)
    stage.gateway.apply(stage.table({"m": stage.route(*engines, policy="least_connections")}))
    assert type(stage.gateway.routes["m"].policy).__name__ == "LeastConnections"


async def test_an_unknown_policy_is_an_error_and_changes_nothing(stage):
    engine = await stage.engine()
    await stage.open(engine)
    with pytest.raises(ValueError, match="unknown routing policy 'astrology'"):
        stage.gateway.apply(stage.table({"x": ModelRoute(model="x", policy="astrology")}))
    assert (await stage.request(stage.post())).status == 200


async def test_load_of_other_workers_and_nodes_counts(stage):
    engines = [await stage.engine() for _ in range(3)]
    await stage.open(table=stage.table({"m": stage.route(*engines, policy="least_connections")}))
    stage.in_flight.row(1)[0] = 5
    stage.in_flight.set_remote({1: 5})
    for _ in range(4):
        await stage.request(stage.post())
    assert [len(engine.seen) for engine in engines] == [0, 0, 4]


async def test_avoided_engines_come_last(stage):
    engines = [await stage.engine() for _ in range(3)]
    await stage.open(*engines)
    gateway = stage.gateway
    route = gateway.routes["m"]
    now = gateway.now()
    gateway.faults.unreachable("n0/m", "x", now)
    assert {route.choose((), gateway, REQUEST).target.id for _ in range(10)} == {"n1/m", "n2/m"}
    assert {route.choose((route.pools[1],), gateway, REQUEST).target.id for _ in range(10)} == {"n2/m"}
    assert {route.choose(route.pools[1:], gateway, REQUEST).target.id for _ in range(10)} == {"n0/m"}
    gateway.faults.unreachable("n1/m", "x", now)
    gateway.faults.unreachable("n2/m", "x", now)
    assert {route.choose((), gateway, REQUEST).target.id for _ in range(10)} == {"n0/m", "n1/m", "n2/m"}
    assert not route.has_others(route.pools)


async def test_a_half_open_engine_gets_one_request_until_that_one_has_succeeded(stage):
    engines = [await stage.engine() for _ in range(3)]
    await stage.open(*engines)
    gateway = stage.gateway
    route = gateway.routes["m"]
    gateway.faults.unreachable("n0/m", "x", gateway.now() - 1)
    picked = [route.choose((), gateway, REQUEST).target.id for _ in range(12)]
    assert picked.count("n0/m") == 1
    gateway.faults.reachable("n0/m")
    assert {route.choose((), gateway, REQUEST).target.id for _ in range(10)} == {"n0/m", "n1/m", "n2/m"}
    assert stage.metrics.totals().ejections == 1


async def test_a_restarted_engine_is_picked_again_at_once(stage):
    engines = [await stage.engine() for _ in range(2)]

    def table(instance: str):
        targets = (stage.target(engines[0], 0, instance=instance), stage.target(engines[1], 1))
        return stage.table({"m": ModelRoute(model="m", policy="round_robin", engines=targets)})

    await stage.open(table=table("first"))
    gateway = stage.gateway
    gateway.faults.unreachable("n0/m", "x", gateway.now())
    assert {gateway.routes["m"].choose((), gateway, REQUEST).target.id for _ in range(4)} == {"n1/m"}
    gateway.apply(stage.table({}))
    gateway.apply(table("second"))
    assert {gateway.routes["m"].choose((), gateway, REQUEST).target.id for _ in range(4)} == {"n0/m", "n1/m"}


async def test_the_clock_of_time_outs_ticks_often_enough(stage):
    await stage.open(header_timeout=0.4)
    assert stage.gateway.tick_interval == pytest.approx(0.1)
