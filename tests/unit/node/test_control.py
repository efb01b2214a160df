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

    def metrics(self) -> bytes:
        return b"shoal_isolated 0.0\n"


@pytest.fixture
def client() -> TestClient:
    return TestClient(control_app(Source()))


def test_status_events_and_self(client: TestClient):
    assert client.get("/shoal/v1/self").json()["node"] == "a:1"
    assert client.get("/shoal/v1/status").json()["cluster"] == "c"
    assert client.get("/shoal/v1/events").json() == [{"text": "x"}]


def test_metrics_are_prometheus_text(client: TestClient):
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert reply.text == "shoal_isolated 0.0\n"


def test_the_front_page_tells_what_is_here(client: TestClient):
    text = client.get("/").text
    assert "m-0  ready  ready after 3 s" in text
    assert "/v1" in text


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/shoal/v1/x", 404), ("POST", "/metrics", 405)]
)
def test_errors_are_openai_style_json(client: TestClient, method: str, path: str, status: int):
    reply = client.request(method, path)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
