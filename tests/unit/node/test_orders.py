import time
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from shoal.cluster.signing import HEADER, Signer
from shoal.node.link import LinkError, checked_answer
from shoal.node.orders import RefusedError, signed_routes, text_of

SIGNER = Signer("c", None, time.time)


async def echo(arguments: Mapping[str, Any]) -> Any:
    if "refuse" in arguments:
        raise RefusedError(text_of(arguments, "refuse"))
    return dict(arguments)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def client(told: list[str]) -> TestClient:
    signer = Signer("c", None, time.time)
    return TestClient(
        Starlette(routes=signed_routes({("POST", "/x"): echo, ("GET", "/x"): echo}, signer, told.append))
    )


def send(client: TestClient, method: str, target: str, body: bytes = b"") -> Any:
    signature = SIGNER.sign(method, target, body)
    reply = client.request(method, target, content=body, headers={HEADER: signature})
    return checked_answer(SIGNER, signature, reply)


def test_signed_requests_get_signed_answers(client: TestClient, told: list[str]):
    assert send(client, "POST", "/x", b'{"a": 1}') == {"a": 1}
    assert send(client, "GET", "/x?b=2") == {"b": "2"}
    assert told == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"refuse": "not today"}', "not today"),
        (b'{"refuse": 7}', "no text"),
        (b"[]", "must be a JSON object"),
        (b"{", "not JSON"),
    ],
)
def test_what_cannot_be_done_is_told(client: TestClient, body: bytes, message: str):
    with pytest.raises(LinkError, match=message):
        send(client, "POST", "/x", body)


def test_whoever_does_not_know_the_secret_learns_and_changes_nothing(client: TestClient, told: list[str]):
    assert client.post("/x", json={"a": 1}).status_code == 401
    other = Signer("c", "another secret of length", time.time)
    signature = other.sign("POST", "/x", b"{}")
    reply = client.post("/x", content=b"{}", headers={HEADER: signature})
    assert reply.status_code == 401
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert len(told) == 2
    assert "differ" in told[1]
    with pytest.raises(LinkError, match="differ") as caught:
        checked_answer(other, signature, reply)
    assert caught.value.status == 401


def test_an_answer_of_somebody_else_is_not_believed(client: TestClient):
    signature = SIGNER.sign("POST", "/x", b"{}")
    reply = client.post("/x", content=b"{}", headers={HEADER: signature})
    with pytest.raises(LinkError, match="not signed with this cluster's secret"):
        checked_answer(SIGNER, SIGNER.sign("POST", "/x", b"{}"), reply)
