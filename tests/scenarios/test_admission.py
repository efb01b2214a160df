"""More requests than engines can take: they wait in order, none is lost, who finds no place is told when to come."""

import socket
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from support.cluster import Cluster
from support.metrics import total
from support.wait import wait_until

SEQS = 4
CAPACITY = SEQS + 1  # see shoal.engine.capacity
TOKENS, LONG = 25, 250
ARGS = {"max-num-seqs": SEQS, "decode-ms": 15}  # a request takes about 0.4 s


# One for all: making one loads certificates, which takes longer than a request.
HTTP = httpx.Client(timeout=60, trust_env=False, verify=False, limits=httpx.Limits(max_connections=1000))


class Asking(threading.Thread):
    """Asks one question.

    Attributes:
        status: of the answer, 0 while there is none.
        problem: what went wrong with the connection.
        done: when the answer was complete.
        waited: seconds in the queue, as the answer says.
        engine: that answered.
        retry: the Retry-After.
    """

    def __init__(self, url: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.url, self.headers, self.body = url, headers, body
        self.status = 0
        self.problem = self.engine = self.text = ""
        self.done = self.waited = 0.0
        self.retry: int | None = None
        self.start()

    def run(self) -> None:
        try:
            reply = HTTP.post(self.url, json=self.body, headers=self.headers)
        except httpx.HTTPError as error:
            self.problem = repr(error)
            return
        self.done = time.monotonic()
        self.status, self.text = reply.status_code, reply.text
        self.engine = reply.headers.get("x-shoal-engine", "")
        self.waited = float(reply.headers.get("x-shoal-queue-time", 0))
        self.retry = int(reply.headers["retry-after"]) if "retry-after" in reply.headers else None


def ask(
    cluster: Cluster,
    node: int = 0,
    tokens: int = TOKENS,
    priority: str = "",
    body_priority: int | None = None,
) -> Asking:
    headers = {"x-shoal-priority": priority} if priority else {}
    body: dict[str, Any] = {
        "model": "sim-model",
        "messages": [{"role": "user", "content": "go"}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    if body_priority is not None:
        body["priority"] = body_priority
    return Asking(cluster.url(node, "/v1/chat/completions"), headers, body)


def answers(asking: list[Asking]) -> None:
    for one in asking:
        one.join(timeout=60)
    assert [(one.status, one.problem, one.text) for one in asking if one.status != 200] == []


def metrics(cluster: Cluster, node: int, name: str, **labels: str) -> float:
    return total(cluster.http.get(cluster.url(node, "/metrics")).text, name, **labels)


def queued(cluster: Cluster, node: int = 0) -> int:
    return int(metrics(cluster, node, "shoal_gateway_queue_length"))


def running(cluster: Cluster) -> list[int]:
    """Return what each engine has, running and queued in it, by its own account."""
    found = []
    for member in cluster.status(0).get("members", []):
        for e in member["engines"]:
            text = HTTP.get(f"http://{e['host']}:{e['port']}/metrics").text
            lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_")]
            wanted = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
            found.append(int(sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))))
    return found


@pytest.fixture
def two(make_cluster: Callable[..., Cluster]) -> Callable[..., Cluster]:
    """Return a maker of two running nodes with an engine each."""

    def make(workers: int = 1, **admission: Any) -> Cluster:
        model = {"path": "sim-model", "engine": "sim", "args": ARGS}
        return make_cluster(2, model=model, admission=admission, gateway={"workers": workers}).start()

    return make


def test_a_burst_waits_and_none_of_it_fails(two: Callable[..., Cluster]) -> None:
    """When 100 requests come to 2 engines that take 5 each, all are answered and no engine ever has more than 5.

    They come through two workers, which may give away the same last place: each looks first and counts then.
    """
    cluster = two(workers=2)
    asking = [ask(cluster) for _ in range(100)]
    wait_until(
        lambda: cluster.member(1, 0).get("waiting", {}).get("sim-model", 0) >= 10,
        10,
        "told by the other node",
    )
    seen: list[list[int]] = []

    def over() -> bool:
        seen.append(running(cluster))
        return not any(one.is_alive() for one in asking)

    wait_until(over, 60, "all answered")
    answers(asking)
    assert max(map(max, seen)) <= CAPACITY + 1
    waited = [one for one in asking if one.waited]
    assert len(waited) >= 50
    assert metrics(cluster, 0, "shoal_gateway_queue_wait_seconds_count") == len(waited)
    assert metrics(cluster, 0, "shoal_gateway_queue_wait_seconds_sum") == pytest.approx(
        sum(one.waited for one in waited), rel=0.01
    )
    counts = [sum(one.engine.startswith(name) for one in asking) for name in cluster.names]
    assert min(counts) >= 40, "both engines do their share"
    wait_until(lambda: cluster.member(1, 0)["waiting"] == {}, 10)


def test_a_burst_that_comes_through_both_nodes_is_shared_fairly(two: Callable[..., Cluster]) -> None:
    """Requests of a node that comes late do not wait until all of the other one's are through."""
    cluster = two()
    first = [ask(cluster, 0, tokens=60) for _ in range(80)]
    wait_until(lambda: queued(cluster, 0) >= 50, 10)
    late = [ask(cluster, 1) for _ in range(20)]
    answers(first + late)
    last = max(one.done for one in first)
    assert statistics.median(one.done for one in late) < last - 0.5
    assert max(one.done for one in late) < last


def test_urgent_requests_go_first_and_batch_goes_last(two: Callable[..., Cluster]) -> None:
    cluster = two()
    filling = [ask(cluster, tokens=LONG) for _ in range(2 * CAPACITY)]
    wait_until(lambda: sum(running(cluster)) == 2 * CAPACITY, 10)
    batch = [ask(cluster, priority="batch") for _ in range(10)]
    ordinary = [ask(cluster) for _ in range(10)]
    wait_until(lambda: queued(cluster) == 10, 10, "batch is not counted here")
    late = [ask(cluster, priority="5") for _ in range(10)]
    urgent = [ask(cluster, priority="-1") for _ in range(5)]
    urgent += [ask(cluster, body_priority=-1) for _ in range(5)]
    answers(filling + batch + ordinary + late + urgent)
    means = [statistics.mean(one.done for one in group) for group in (urgent, ordinary, late, batch)]
    assert means == sorted(means)


def test_batch_yields_to_a_user(two: Callable[..., Cluster]) -> None:
    """While a batch of long requests runs, a user's request does not wait for any of it."""
    cluster = two(batch_share=0.6)
    batch = [ask(cluster, tokens=120, priority="batch") for _ in range(12)]
    wait_until(lambda: sum(running(cluster)) == 6, 10, "3 of 5 places of each engine")
    users = [ask(cluster, tokens=5) for _ in range(4)]
    answers(users)
    assert [one.waited for one in users] == [0, 0, 0, 0]
    assert any(one.is_alive() for one in batch)
    answers(batch)


def test_clients_that_leave_free_their_places(two: Callable[..., Cluster]) -> None:
    cluster = two(max_queued=10)
    filling = [ask(cluster, tokens=100) for _ in range(2 * CAPACITY)]
    wait_until(lambda: sum(running(cluster)) == 2 * CAPACITY, 10)
    leaving = [socket.create_connection(("127.0.0.1", cluster.ports[0]), 10) for _ in range(10)]
    bye = b'{"model": "sim-model", "messages": [{"role": "user", "content": "bye"}]}'
    for client in leaving:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(bye) + bye
        )
    wait_until(lambda: queued(cluster) == 10, 10, "they wait")
    for client in leaving:
        client.close()
    wait_until(
        lambda: metrics(cluster, 0, "shoal_gateway_queue_unserved_total", reason="client_gone") == 10, 10
    )
    assert queued(cluster) == 0
    staying = [ask(cluster) for _ in range(10)]
    answers(filling + staying)
    assert metrics(cluster, 0, "shoal_gateway_queue_unserved_total", reason="full") == 0


def test_an_engine_dies_while_others_wait(two: Callable[..., Cluster]) -> None:
    cluster = two()
    asking = [ask(cluster) for _ in range(60)]
    wait_until(lambda: queued(cluster) >= 40, 10)
    cluster.kill_engine(1)
    answers(asking)


def test_overflow_is_told_when_to_come_back_and_that_is_true(two: Callable[..., Cluster]) -> None:
    """Retry-After is about what the queue then takes, and who comes back after it is served."""
    cluster = two(max_queued=60)
    asking = [ask(cluster, tokens=60) for _ in range(60 + 2 * CAPACITY)]
    wait_until(lambda: sum(one.status == 200 for one in asking) >= 4 * CAPACITY, 20)
    more = [ask(cluster, tokens=60) for _ in range(40)]
    wait_until(lambda: [one for one in more if one.status == 429], 10)
    told_at = time.monotonic()
    refused = [one for one in more if one.status == 429]
    assert "queue_full" in refused[0].text
    retry = refused[0].retry
    assert retry is not None
    for one in asking + more:
        one.join(60)
    assert {one.status for one in asking} == {200}
    took = max(one.done for one in asking + more if one.status == 200) - told_at
    assert 0.5 * took <= retry <= 1.5 * took + 1, (retry, took)


def test_openai_clients_come_back_by_themselves(two: Callable[..., Cluster]) -> None:
    """With its default of two retries the official client gets through a queue that is full for a moment."""
    cluster = two(max_queued=1)
    direct = openai.DefaultHttpxClient(trust_env=False, verify=False)
    client = openai.OpenAI(base_url=cluster.url(0, "/v1"), api_key="x", http_client=direct)
    filling = [ask(cluster, tokens=LONG) for _ in range(2 * CAPACITY + 1)]
    wait_until(lambda: queued(cluster) == 1, 10)
    said = client.chat.completions.create(
        model="sim-model", messages=[{"role": "user", "content": "hi"}], max_tokens=3
    )
    assert said.choices[0].message.content
    answers(filling)
    assert metrics(cluster, 0, "shoal_gateway_queue_unserved_total", reason="full") >= 1
