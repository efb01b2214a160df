"""`communication.protocol: udp`: requests to other nodes go over QUIC, and by tcp where QUIC does not get through."""

from collections.abc import Callable

import pytest

from support.cluster import Cluster
from support.load import Load
from support.udp_wall import relay_of, silent
from support.wait import wait_until

SECRET = "the secret of a cluster under test"


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Return two nodes over QUIC, engines with mutual TLS, of which the first has no engine."""
    made = make_cluster(
        2,
        communication={"protocol": "udp"},
        cluster={"secret": SECRET, "tls": "on"},
        # On a busy machine a simulated engine may get no time for seconds; that is not what is tested here.
        recovery={"restart_delay": 0.2, "drain_timeout": 5, "stall_timeout": 60},
        model={"path": "sim-model", "engine": "sim", "args": {"decode-ms": 10}},
    )
    made.config["nodes"][0]["role"] = "gateway"
    made.path = made.write("config.yaml", made.config)
    for index in (0, 1):
        made.start_node(index)
    made.wait_ready(engines=1, deadline=60)
    wait_until(lambda: told(made, "go by udp"), 30, "QUIC between the nodes")
    return made


def told(cluster: Cluster, what: str) -> int:
    """Return how often the first node has said that of its requests to the second."""
    return cluster.output(0).count(f"requests to {cluster.names[1]} {what}")


def test_a_killed_relay_costs_no_request_at_either_end(cluster: Cluster) -> None:
    with Load(cluster, [0], clients=6, streams=3, limit=120, pause=0.02) as load:
        for end in (0, 1, 0, 1):
            enough = load.count() + 20
            wait_until(lambda n=enough: load.count() >= n, 60, "load")
            killed, by_udp = relay_of(cluster, end), told(cluster, "go by udp")
            assert killed is not None
            killed.kill()
            wait_until(lambda n=by_udp: told(cluster, "go by udp") > n, 60, "QUIC again")
        enough = load.count() + 20
        wait_until(lambda: load.count() >= enough, 60, "load")
    assert not load.failures
    assert load.streamed
    assert "the relay for udp was killed by signal 9" in cluster.output(0)


def test_where_udp_is_blocked_requests_go_by_tcp_and_none_fails(cluster: Cluster) -> None:
    with Load(cluster, [0], clients=6, streams=3, limit=120, pause=0.02) as load:
        wait_until(lambda: load.count() >= 20, 60, "load")
        with silent(cluster, 1):
            wait_until(lambda: told(cluster, "go by tcp, not udp"), 30, "the way by tcp")
            enough = load.count() + 20
            wait_until(lambda: load.count() >= enough, 60, "load by tcp")
        wait_until(lambda: told(cluster, "go by udp again"), 30, "the way back")
        enough = load.count() + 20
        wait_until(lambda: load.count() >= enough, 60, "load by udp")
    assert not load.failures
    assert load.streamed


def test_a_relay_that_hangs_is_replaced_and_no_request_fails(cluster: Cluster) -> None:
    with Load(cluster, [0], clients=6, streams=3, limit=120, pause=0.02) as load:
        wait_until(lambda: load.count() >= 20, 60, "load")
        by_udp = told(cluster, "go by udp")
        hanging = relay_of(cluster, 0)
        assert hanging is not None
        hanging.suspend()
        wait_until(lambda: told(cluster, "go by udp") > by_udp, 60, "a new relay")
        enough = load.count() + 20
        wait_until(lambda: load.count() >= enough, 60, "load")
    assert not load.failures
    assert "the relay for udp has hung" in cluster.output(0)
