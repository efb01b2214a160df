"""The HTTP interface, compared with what a real vLLM 0.32 answered.

`vllm_0_32.json` was recorded from ``vllm serve`` with a tiny random Llama (served as ``tiny`` and ``tiny-alias``,
``--max-model-len 256 --scheduling-policy priority``): requests with status, content type and the shape of the answer
(errors word for word). Shapes are JSON with every value replaced by the name of its type; key order counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from support.sim import Sim

RECORDED = json.loads(Path(__file__).with_name("vllm_0_32.json").read_text(encoding="utf-8"))
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def tiny(launch: Callable[..., Sim]) -> Iterator[Sim]:
    arguments = ["--model", "tiny", "--served-model-name", "tiny", "tiny-alias", "--max-model-len", "256"]
    running = launch(*arguments, "--time-scale", "0")
    yield running
    running.stop()


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return value if value is None else type(value).__name__


def events(body: str) -> list[Any]:
    found: list[Any] = []
    for line in body.split("\n"):
        if line.startswith("event: "):
            item: Any = line
        elif line.startswith("data: "):
            item = line[6:] if line == "data: [DONE]" else shape(json.loads(line[6:]))
        else:
            assert line == ""
            continue
        if item not in found:
            found.append(item)
    return found


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['path']} {case['body'][:90]}")
def test_answers_have_vllms_shape(tiny: Sim, case: dict[str, Any]) -> None:
    headers = {"content-type": "application/json"}
    response = tiny.http.post(case["path"], content=case["body"], headers=headers)
    assert response.status_code == case["status"]
    assert response.headers["content-type"] == case["type"]
    if "events" in case:
        assert_same(events(response.text), case["events"])
    elif case["status"] >= 400:
        assert_same(response.json(), case["json"])
    else:
        assert_same(shape(response.json()), case["json"])


def assert_same(got: Any, expected: Any) -> None:
    # Alternatives of a token are keys in one place; their names depend on the model.
    for value in (got, expected):
        for choice in value.get("choices", []) if isinstance(value, dict) else []:
            if "tokens" in (choice.get("logprobs") or {}):
                choice["logprobs"]["top_logprobs"] = ["float"]
    assert json.dumps(got) == json.dumps(expected)


def test_small_endpoints_answer_as_vllms(sim: Sim) -> None:
    assert sim.http.get("/health").content == b""
    assert sim.http.post("/ping").status_code == 200
    assert sim.http.get("/version").json() == {"version": "0.32.0+sim"}
    assert sim.http.get("/load").json() == {"server_load": 0}
    models = sim.http.get("/v1/models").json()
    assert [card["id"] for card in models["data"]] == ["sim-model", "sim-alias"]
    assert models["data"][0]["max_model_len"] == 32768


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/nope", 404, {"detail": "Not Found"}),
        ("GET", "/v1/models/sim-model", 404, {"detail": "Not Found"}),
        ("POST", "/health", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/v1/completions", 405, {"detail": "Method Not Allowed"}),
        ("DELETE", "/v1/models", 405, {"detail": "Method Not Allowed"}),
    ],
)
def test_wrong_paths_and_methods_are_fastapis(
    sim: Sim, method: str, path: str, status: int, body: object
) -> None:
    response = sim.http.request(method, path)
    assert (response.status_code, response.json()) == (status, body)


def test_the_body_must_be_declared_as_json(sim: Sim) -> None:
    response = sim.http.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 400
    assert "Only 'application/json' is allowed" in response.json()["error"]["message"]


def test_a_key_guards_v1_and_nothing_else(start_sim: Callable[..., Sim]) -> None:
    guarded = start_sim("--time-scale", "0", env={"VLLM_API_KEY": "secret-key"})
    body = {"prompt": "x", "max_tokens": 1}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret-key"}):
        response = guarded.http.post("/v1/completions", json=body, headers=headers)
        assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"})
        assert guarded.http.get("/v1/nope", headers=headers).status_code == 401
    right = {"authorization": "bearer secret-key"}
    assert guarded.http.post("/v1/completions", json=body, headers=right).status_code == 200
    for path in ("/health", "/metrics", "/version", "/sim/state"):
        response = guarded.http.get(path)
        assert response.status_code == 200
        assert "secret-key" not in response.text
    assert guarded.http.post("/invocations", json=body).status_code == 200
    assert not any("secret-key" in line for line in guarded.output)


def test_tokens_and_text_are_turned_into_each_other(sim: Sim) -> None:
    tokens = sim.http.post("/tokenize", json={"prompt": "a 😀 b"}).json()["tokens"]
    assert sim.http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "a 😀 b"}
    chat = sim.http.post("/tokenize", json={"messages": HELLO}).json()
    answer = sim.http.post(
        "/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1, "return_token_ids": True}
    )
    assert chat["tokens"] == answer.json()["prompt_token_ids"]
    counted = sim.http.post(
        "/v1/messages/count_tokens", json={"model": "sim-model", "messages": HELLO}
    ).json()
    assert counted["input_tokens"] == chat["count"]


def test_invocations_find_their_endpoint(sim: Sim) -> None:
    for body, kind in (
        ({"messages": HELLO, "max_tokens": 1}, "chat.completion"),
        ({"prompt": "x", "max_tokens": 1}, "text_completion"),
        ({"input": "x"}, "list"),
    ):
        assert sim.http.post("/invocations", json=body).json()["object"] == kind
    assert sim.http.post("/invocations", json={"x": 1}).status_code == 400


def test_the_metrics_follow_the_requests(start_sim: Callable[..., Sim]) -> None:
    fresh = start_sim("--time-scale", "0", "--model", "m")
    prompt = "the same words again and again and again and again and again"
    for _ in range(2):
        fresh.complete(prompt=prompt, max_tokens=5, ignore_eos=True)
    page = fresh.http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in page.text.splitlines() if not line.startswith("#"))
    label = '{engine="0",model_name="m"}'
    assert values[f"vllm:generation_tokens_total{label}"] == "10.0"
    assert values[f"vllm:num_requests_running{label}"] == "0.0"
    assert values['vllm:request_success_total{engine="0",finished_reason="length",model_name="m"}'] == "2.0"
    assert float(values[f"vllm:prefix_cache_hits_total{label}"]) >= 16
    assert fresh.http.post("/reset_prefix_cache").status_code == 200
    assert fresh.state()["prefix_cache"]["blocks"] == 0


def test_the_state_says_what_happened_and_in_which_order(start_sim: Callable[..., Sim]) -> None:
    fresh = start_sim("--time-scale", "0")
    for name in ("first", "second"):
        fresh.http.post("/v1/completions", json={"prompt": "secret words"}, headers={"x-request-id": name})
    state = fresh.state()
    assert state["order"] == ["cmpl-first", "cmpl-second"]
    assert (state["requests"], state["finished"], state["aborted"]) == (2, 2, 0)
    assert state["calls"] == {"/v1/completions": 2}
    assert state["pid"] == fresh.process.pid
    assert "secret" not in json.dumps(state)


def test_hostile_bodies_are_400_and_nothing_dies(sim: Sim) -> None:
    bodies = [
        b"",
        b"null",
        b"[]",
        b"5",
        b'"x"',
        b"{",
        b"\xff\xfe",
        b"[" * 50_000,
        b"1" * 5000,
        b'{"prompt":' * 2000,
    ]
    for path in (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/embeddings",
        "/rerank",
        "/tokenize",
    ):
        for body in bodies:
            response = sim.http.post(path, content=body, headers={"content-type": "application/json"})
            assert response.status_code == 400, (path, body[:20], response.text)
            assert len(response.content) < 1000
            assert response.json()["error"]["code"] == 400
    assert sim.http.get("/health").status_code == 200


def test_too_many_open_requests_are_refused_as_vllm_does(start_sim: Callable[..., Sim]) -> None:
    small = start_sim("--max-num-queued-reqs", "0")
    response = small.http.post("/v1/completions", json={"prompt": "x"})
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "Service Unavailable"
    assert "currently busy" in response.json()["error"]["message"]


def test_unknown_fault_orders_are_explained(sim: Sim) -> None:
    response = sim.http.post("/sim/fault", json={"kind": "explode"})
    assert response.status_code == 400
    assert "one of crash, exit" in response.json()["error"]["message"]
    assert sim.http.get("/sim/fault").json() == {"faults": []}


def test_large_bodies_arrive_whole(sim: Sim) -> None:
    words = "word " * 30_000
    counted = sim.http.post("/tokenize", json={"prompt": words}).json()["count"]
    assert counted >= 30_000


def test_a_client_that_leaves_before_its_body_is_complete_changes_nothing(sim: Sim) -> None:
    before = sim.state()["requests"]
    with pytest.raises(httpx.HTTPError):
        sim.http.post("/v1/completions", content=partial_body(), headers={"content-length": "100"})
    assert sim.state()["requests"] == before


def partial_body() -> Iterator[bytes]:
    yield b'{"prompt":'
    raise httpx.WriteError("the client gave up")
