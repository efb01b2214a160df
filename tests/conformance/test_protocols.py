"""The same requests get the same bytes whatever carries them between nodes."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lib.kafka import Kafka
from lib.rabbitmq import RabbitMQ
from support.cluster import Cluster
from support.ports import free_ports
from support.wait import wait_until

pytestmark = pytest.mark.timeout(400)  # the first test of a protocol starts a broker, which may take minutes
PROTOCOLS = ["tcp", "udp", "rabbitmq", "kafka"]
MESSAGES = [{"role": "user", "content": "Tell me of the sea, in ünïcödé \U0001f30a."}]
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "chat": ("POST", "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 40}),
    "streamed chat": (
        "POST",
        "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": 60, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "completions": (
        "POST",
        "/v1/completions",
        {"prompt": ["one", "two"], "max_tokens": 20, "n": 2, "seed": 1},
    ),
    "token ids": (
        "POST",
        "/v1/completions",
        {"prompt": [1, 2, 3], "max_tokens": 9, "return_token_ids": True},
    ),
    "embeddings": ("POST", "/v1/embeddings", {"input": ["one", "two"]}),
    "tokenize": ("POST", "/tokenize", {"prompt": "how many?"}),
    "a large prompt": ("POST", "/v1/completions", {"prompt": "sea " * 4000, "max_tokens": 4}),
    "a bad field": ("POST", "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": -1}),
    "no such method": ("DELETE", "/v1/embeddings", None),
}
# What differs between two answers to one request, whoever carries them.
CHANGES = re.compile(rb'"(id|created|request_id|system_fingerprint)": ?("[^"]*"|\d+)|\r\ndate: [^\r]*')


@pytest.fixture(scope="module", params=PROTOCOLS)
def remote(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Return a protocol, and the URL of a node that has no engine itself."""
    communication: dict[str, Any] = {"protocol": request.param}
    broker: RabbitMQ | Kafka | None = None
    if request.param in ("rabbitmq", "kafka"):
        directory = tmp_path_factory.mktemp("broker")
        if request.param == "rabbitmq":
            broker = RabbitMQ(directory, free_ports(3))
        else:
            broker = Kafka("noida", directory, *free_ports(1))
        communication["broker"] = {"urls": [broker.url]}
    running = Cluster(tmp_path_factory.mktemp(request.param), nodes=2, communication=communication)
    running.config["nodes"][0]["role"] = "gateway"
    running.path = running.write("config.yaml", running.config)
    try:
        if broker is not None:
            broker.start()
        for index in (0, 1):
            running.start_node(index)
        running.wait_ready(engines=1, deadline=200)
        if request.param != "tcp":
            wait_until(
                lambda: [e for e in running.events(0) if f"go by {request.param}" in e], 30, request.param
            )
            # While a broker still hands its queues out among the nodes, what is under way may begin anew: a stream that
            # shows as a resume, which these tests are not about.
            answer(running.url(0), REQUESTS["streamed chat"])
        yield request.param, running.url(0)
    finally:
        running.close()
        if broker is not None:
            broker.close()


def answer(url: str, request: tuple[str, str, Any]) -> dict[str, Any]:
    method, path, body = request
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        sent = None if body is None else json.dumps({"model": "sim-model"} | body).encode()
        reply = http.request(method, path, content=sent, headers={"content-type": "application/json"})
    headers = {n: v for n, v in reply.headers.items() if n not in ("date", "x-shoal-engine")}
    return {"status": reply.status_code, "headers": headers, "body": CHANGES.sub(b"", reply.content)}


_BY_TCP: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_is_the_same(remote: tuple[str, str], name: str) -> None:
    protocol, url = remote
    got = answer(url, REQUESTS[name])
    assert got["body"] or name == "no such method"
    if protocol == PROTOCOLS[0]:
        _BY_TCP[name] = got
    elif name in _BY_TCP:  # the first protocol's tests ran in this process
        assert got == _BY_TCP[name], got["body"]
