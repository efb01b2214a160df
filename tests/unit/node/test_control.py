from typing import Any

import pytest
from starlette.testclient import TestClient

from shoal.node.control import control_app


class Source:
    def self_document(self) -> dict[str, Any]:
        return {"node": "a:1", "version": "1", "pid": 7}

    def status(self) -> dict[str, Any]:
        engine = {"id": "m-0", "state": "ready", "detail": "ready after 3 s"}
        member = {"name": "a:1", "state": "alive", "engines": [engine]}
        return {"node": "a:1", "cluster": "c", "version": "1", "members": [member], "events": [{"text": "x"}]}

    def events(self, count: int) -> list[dict[str, Any]]:
        return [{"text": "x"}] * min(count, 2)

    async def all_events(self, count: int) -> list[dict[str, Any]]:
        return [{"text": "x", "node": "b:1"}]

    async def metrics(self) -> str:
        return "shoal_isolated 0.0\n"

    async def cluster_metrics(self) -> str:
        return "shoal_node_up 1.0\n"


@pytest.fixture
def client() -> TestClient:
    return TestClient(control_app(Source()))


def test_status_events_and_self(client: TestClient):
    assert client.get("/shoal/v1/self").json()["node"] == "a:1"
    assert client.get("/shoal/v1/status").json()["cluster"] == "c"
    assert client.get("/shoal/v1/events").json() == [{"text": "x"}] * 2
    assert client.get("/shoal/v1/events?count=1").json() == [{"text": "x"}]
    assert client.get("/shoal/v1/events?all=1").json() == [{"text": "x", "node": "b:1"}]


def test_metrics_are_prometheus_text(client: TestClient):
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert reply.text == "shoal_isolated 0.0\n"
    assert client.get("/metrics/cluster").text == "shoal_node_up 1.0\n"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/shoal/v1/x", 404), ("POST", "/metrics", 405)]
)
def test_errors_are_openai_style_json(client: TestClient, method: str, path: str, status: int):
    reply = client.request(method, path)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
