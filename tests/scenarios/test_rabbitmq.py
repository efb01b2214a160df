"""`communication.protocol: rabbitmq`: requests go through a real RabbitMQ, and by tcp while that is away."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib.rabbitmq import RabbitMQ
from support.batches import client, require_right, results, submit, wait_ended, write
from support.cluster import Cluster
from support.load import Load
from support.ports import free_ports
from support.wait import wait_until

pytestmark = pytest.mark.timeout(
    600
)  # RabbitMQ needs seconds to start, and minutes where others need the machine
BY_QUEUE, BY_TCP = "requests go by rabbitmq", "requests go by tcp, not rabbitmq"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    running = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"), free_ports(3))
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster], broker: RabbitMQ, tmp_path: Path) -> Cluster:
    """Return three nodes that send each other requests through the broker."""
    made = make_cluster(
        communication={"protocol": "rabbitmq", "broker": {"urls": [broker.url], "prefix": tmp_path.name}},
        model={"path": "sim-model", "engine": "sim", "args": {"decode-ms": 10}},
    )
    started(made)
    for index in range(3):
        wait_until(lambda i=index: told(made, i, BY_QUEUE), 60, "the way through the broker")
    return made


def started(cluster: Cluster) -> None:
    """Start all nodes, beside a broker that starts too."""
    for index in range(len(cluster.ports)):
        cluster.start_node(index)
    cluster.wait_ready(deadline=120)


def told(cluster: Cluster, index: int, what: str) -> int:
    """Return how often a node has said that."""
    return cluster.output(index).count(what)


def test_a_node_that_loses_power_costs_no_request(cluster: Cluster) -> None:
    with Load(cluster, [0, 1], clients=6, streams=2, limit=180, pause=0.02) as load:
        wait_until(lambda: load.count() >= 30, 90, "load")
        cluster.power_off(2)
        enough = load.count() + 60
        wait_until(lambda: load.count() >= enough, 90, "load without it")
    assert not load.failures
    assert load.streamed


def test_the_broker_may_be_killed_and_started_under_load(
    cluster: Cluster, broker: RabbitMQ, tmp_path: Path
) -> None:
    lines = 150
    with Load(cluster, [0, 1, 2], clients=4, streams=2, limit=500, pause=0.05) as load:
        batch = submit(client(cluster, 0), write(tmp_path / "in.jsonl", lines, tokens=40))
        wait_until(
            lambda: client(cluster, 0).batches.retrieve(batch.id).request_counts.completed, 90, "lines"
        )
        broker.kill()
        wait_until(lambda: all(told(cluster, i, BY_TCP) for i in range(3)), 60, "the way by tcp")
        enough = load.count() + 30
        wait_until(lambda: load.count() >= enough, 90, "load by tcp")
        broker.start()
        wait_until(lambda: all(told(cluster, i, BY_QUEUE) > 1 for i in range(3)), 60, "the way back")
        enough = load.count() + 30
        wait_until(lambda: load.count() >= enough, 90, "load through the broker")
        ended = wait_ended(cluster, batch.id, 180)
    assert not load.failures
    assert load.streamed
    assert (ended.status, ended.request_counts.completed) == ("completed", lines)
    require_right(results(cluster, ended.output_file_id), lines, 40)


def test_a_node_whose_broker_is_not_there_says_so_and_serves(make_cluster: Callable[..., Cluster]) -> None:
    (port,) = free_ports(1)
    made = make_cluster(1, communication={"protocol": "rabbitmq", "broker": {"urls": [f"127.0.0.1:{port}"]}})
    started(made)
    wait_until(lambda: told(made, 0, BY_TCP), 60, "requests go by tcp")
    why = f"RabbitMQ cannot be reached (amqp://127.0.0.1:{port}"
    wait_until(lambda: why in made.output(0), 60, "what is wrong")
    with Load(made, [0], clients=2, limit=60) as load:
        wait_until(lambda: load.count() >= 5, 60, "load")
    assert not load.failures
