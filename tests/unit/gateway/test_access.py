"""A gateway that asks for keys: who gets in where, what limits refuse, and what is counted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from shoal.gateway.keys import Key, KeyTable
from shoal.routing.table import ModelRoute
from support.keys import bearer, key, secret

USAGE = b'"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5,"prompt_tokens_details":null}'
ANSWER = (
    b'{"id":"c","choices":[{"message":{"content":"\\"usage\\":{\\"prompt_tokens\\":99}"}}],%b,"more":{}}'
    % USAGE
)
PATHS = [
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/messages"),
    ("POST", "/v1/embeddings"), ("POST", "/tokenize"), ("POST", "/rerank"), ("POST", "/pooling"),
    ("POST", "/invocations"), ("POST", "/v1/responses"), ("GET", "/v1/responses/r1"), ("GET", "/tokenizer_info"),
    ("GET", "/v1/models"), ("GET", "/v1/models/m"), ("GET", "/v1/files"), ("POST", "/v1/batches"),
]  # fmt: skip
ADMIN_PATHS = ["/shoal/v1/status", "/shoal/v1/keys", "/shoal/v1/nothing", "/shoal/console/x"]


def ok(body: bytes = ANSWER, extra: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (extra, len(body)) + body


async def open_with(stage, *keys: Key, engine: bytes = b"", **more: Any):
    one = await stage.engine(engine or ok())
    bodies = {"m": b'{"id":"m"}'}
    table = stage.table({"m": stage.route(one)}, models_body=b'{"data":[{"id":"m"}]}', model_bodies=bodies)
    await stage.open(table=table, keys=KeyTable(keys=keys, **more))
    return one


async def start_control(stage):
    control = await stage.engine()
    await control.stop()
    await control.start(unix=stage.control)
    return control


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_every_endpoint_asks_for_a_key(stage, method, path):
    one = await open_with(stage, key("anna"))
    client = await stage.client()
    for extra, code in (("", "missing_api_key"), (bearer("bert"), "invalid_api_key")):
        data = stage.post(path=path, extra=extra) if method == "POST" else stage.get(path, extra)
        reply = await client.request(data)
        assert (reply.status, reply.error["code"], reply.header("www-authenticate")) == (401, code, "Bearer")
    assert one.seen == []


@pytest.mark.parametrize("path", ADMIN_PATHS)
async def test_control_paths_are_for_admins(stage, path):
    control = await start_control(stage)
    await open_with(stage, key("anna"), key("root", 1, admin=True))
    client = await stage.client()
    assert (await client.request(stage.get(path))).status == 401
    reply = await client.request(stage.get(path, bearer("anna")))
    assert (reply.status, reply.error["code"]) == (403, "admin_key_required")
    assert control.seen == []
    assert (await client.request(stage.get(path, bearer("root")))).status == 200
    assert control.seen[0].header(b"authorization") is None


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/ping",
        "/version",
        "/metrics",
        "/metrics/cluster",
        "/shoal/v1/self",
        "/",
        "/console/1/main.js",
    ],
)
async def test_what_probes_and_scrapers_need_is_open(stage, path):
    await start_control(stage)
    await open_with(stage, key("anna"))
    assert (await stage.request(stage.get(path))).status == 200


async def test_metrics_can_be_for_admins(stage):
    await start_control(stage)
    await open_with(stage, key("anna"), key("root", 1, admin=True), open_metrics=False)
    statuses = [
        (await stage.request(stage.get("/metrics?x", extra))).status
        for extra in ("", bearer("anna"), bearer("root"))
    ]
    assert statuses == [401, 403, 200]


async def test_the_key_for_metrics_opens_these_and_nothing_else(stage):
    await start_control(stage)
    digest = key("scraper").digest
    await open_with(stage, key("anna"), open_metrics=False, scrape=digest)
    shown = bearer("scraper")
    for path, status in (("/metrics", 200), ("/metrics/cluster", 200), ("/shoal/v1/status", 401)):
        assert (await stage.request(stage.get(path, shown))).status == status
        assert (await stage.request(stage.get(path, bearer("other")))).status == 401
    assert (await stage.request(stage.post(extra=shown))).status == 401
    stage.gateway.access.replace(KeyTable(keys=(), open_metrics=False))
    assert (await stage.request(stage.get("/metrics", shown))).status == 401, (
        "where there is none, b'' is none"
    )


async def test_a_key_opens_the_apis_and_does_not_reach_the_engine(stage):
    one = await open_with(stage, key("anna"), key("root", 1, admin=True))
    for extra in (bearer("anna"), bearer("root"), f"X-API-Key: {secret('anna').decode()}\r\n"):
        assert (await stage.request(stage.post(extra=extra + "x-other: 1\r\n"))).status == 200
    for seen in one.seen:
        assert seen.header(b"authorization") is seen.header(b"x-api-key") is None
        assert seen.header(b"x-other") == b"1"
        assert b"sk-shoal" not in seen.head


async def test_without_keys_everything_is_open_and_authorization_goes_on(stage):
    one = await stage.engine()
    await stage.open(one)
    assert (await stage.request(stage.post(extra=bearer("anna") + "x-api-key: 1\r\n"))).status == 200
    assert one.seen[0].header(b"authorization") == b"Bearer " + secret("anna")
    assert one.seen[0].header(b"x-api-key") == b"1"
    assert stage.gateway.access is None


async def test_external_engines_get_their_own_key_and_no_wish_for_compression(stage):
    one = await stage.engine(ok())
    route = stage.route(one, api_key="theirs", host_header="h")
    await stage.open(table=stage.table({"m": route}), keys=KeyTable(keys=(key("anna"),)))
    extra = bearer("anna") + "Accept-Encoding: gzip\r\n"
    assert (await stage.request(stage.post(extra=extra))).status == 200
    assert one.seen[0].header(b"authorization") == b"Bearer theirs"
    assert one.seen[0].header(b"accept-encoding") is None


async def test_engines_get_the_length_of_each_body_whatever_is_changed_in_the_head(stage):
    engine = await stage.engine(ok())
    targets = {"host_header": "h", "base_path": "/p", "api_key": "theirs"}
    table = stage.table({"m": stage.route(engine, **targets)})
    await stage.open(table=table, keys=KeyTable(keys=(key("anna", 1),)))
    client = await stage.client()
    extra = bearer("anna") + "Accept-Encoding: gzip\r\nX-Last: 1\r\n"
    for size in (1, 200, 3, 5000, 7, 7):
        body = json.dumps({"model": "m", "x": "y" * size}).encode()
        assert (await client.request(stage.post(body, extra=extra))).status == 200
        assert engine.seen[-1].body == body
    heads = {s.head.replace(b"Content-Length: %d" % len(s.body), b"") for s in engine.seen}
    assert len(heads) == 1
    assert engine.seen[-1].line == b"POST /p/v1/chat/completions HTTP/1.1"
    for name, value in ((b"host", b"h"), (b"authorization", b"Bearer theirs"), (b"x-last", b"1")):
        assert engine.seen[-1].header(name) == value
    assert engine.seen[-1].header(b"accept-encoding") is None


async def test_an_empty_table_lets_nobody_in(stage):
    await open_with(stage)
    assert (await stage.request(stage.post(extra=bearer("anna")))).status == 401


async def test_expired_keys_are_refused(stage):
    await open_with(stage, key("old", expires=1.0), key("new", 1, expires=4e9))
    reply = await stage.request(stage.post(extra=bearer("old")))
    assert (reply.status, reply.error["code"]) == (401, "expired_api_key")
    assert (await stage.request(stage.post(extra=bearer("new")))).status == 200


async def test_a_revoked_key_is_refused_on_open_connections_while_its_stream_goes_on(stage):
    release = asyncio.Event()

    async def slow(connection, _):
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
        await release.wait()
        await connection.send(b"67890")

    one = await stage.engine(slow)
    await stage.open(one, keys=KeyTable(keys=(key("anna"),)))
    running, idle = await stage.client(), await stage.client()
    await running.send(stage.post(extra=bearer("anna")))
    await stage.until(lambda: one.seen)
    stage.gateway.access.replace(KeyTable(keys=(key("bert"),)))
    assert (await idle.request(stage.post(extra=bearer("anna")))).status == 401
    release.set()
    assert (await running.reply()).body == b"1234567890"
    assert (await running.request(stage.post(extra=bearer("anna")))).status == 401
    assert (await running.request(stage.post(extra=bearer("bert")))).status == 200


async def test_cors_preflights_pass_without_a_key(stage):
    one = await open_with(stage, key("anna"))
    assert (await stage.request(stage.get("/v1/chat/completions", method="OPTIONS"))).status == 200
    assert len(one.seen) == 1
    assert (await stage.request(stage.get("/shoal/v1/status", method="OPTIONS"))).status == 401


async def test_models_are_those_of_the_key(stage):
    one = await stage.engine(ok())
    routes = {
        n: ModelRoute(model="a" if n == "lora" else n, policy="round_robin", engines=stage.route(one).engines)
        for n in ("a", "b", "lora")
    }
    table = stage.table(
        routes, models_body=b'{"all":1}', model_bodies={n: b'{"id":"%b"}' % n.encode() for n in routes}
    )
    keys = KeyTable(
        keys=(key("anna", models=frozenset({"b"})), key("bert", 1), key("carl", 2, models=frozenset()))
    )
    await stage.open(table=table, keys=keys)
    client = await stage.client()

    async def get(name: str, path: str = "/v1/models"):
        return await client.request(stage.get(path, bearer(name)))

    async def ask(name: str, model: bytes):
        return await client.request(stage.post(b'{"model":"%b"}' % model, extra=bearer(name)))

    assert (await get("anna")).json == {"object": "list", "data": [{"id": "b"}]}
    assert (await get("bert")).json == {"all": 1}
    assert (await get("carl")).json == {"object": "list", "data": []}
    assert (await get("anna", "/v1/models/b")).json == {"id": "b"}
    assert (await get("anna", "/v1/models/a")).error["code"] == "model_not_allowed"
    assert (await ask("anna", b"b")).status == 200
    for model in (b"a", b"lora"):
        reply = await ask("anna", model)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (
            403,
            "model_not_allowed",
            "model",
        )
        assert reply.error["message"].endswith("it may use: b.")
    unknown = await ask("anna", b"zzz")
    assert (unknown.status, "there are: b." in unknown.error["message"]) == (404, True), unknown.error
    assert (await ask("bert", b"lora")).status == 200
    assert len(one.seen) == 2


async def test_a_request_that_names_no_model_needs_the_right_to_the_only_one(stage):
    one = await stage.engine(ok())
    route = stage.route(one, model="m")
    keys = KeyTable(keys=(key("anna", models=frozenset({"a"})), key("bert", 1, models=frozenset({"m"}))))
    await stage.open(table=stage.table({"a": route, "m": route}), keys=keys)
    assert (await stage.request(stage.post(b"{}", extra=bearer("anna")))).status == 403
    assert (await stage.request(stage.post(b"{}", extra=bearer("bert")))).status == 200


async def test_requests_beyond_the_limit_get_429_with_the_usual_headers(stage):
    one = await open_with(stage, key("anna", requests_per_minute=2), key("bert", 1))
    client = await stage.client()
    remaining = []
    for _ in range(2):
        reply = await client.request(stage.post(extra=bearer("anna")))
        assert reply.header("x-ratelimit-limit-requests") == "2"
        assert reply.header("x-ratelimit-limit-tokens") is None
        remaining.append(reply.header("x-ratelimit-remaining-requests"))
    assert remaining == ["1", "0"]
    reply = await client.request(stage.post(extra=bearer("anna")))
    assert (reply.status, reply.error["code"], reply.error["type"]) == (
        429,
        "rate_limit_exceeded",
        "requests",
    )
    assert 29 <= int(reply.header("retry-after")) <= 30
    assert reply.header("x-ratelimit-remaining-requests") == "0"
    assert reply.header("x-ratelimit-reset-requests").endswith("s")
    free = await client.request(stage.post(extra=bearer("bert")))
    assert (free.status, free.header("x-ratelimit-limit-requests")) == (200, None)
    assert len(one.seen) == 3
    assert stage.used() == {("anna", "m"): (2, 14, 10, 1), ("bert", "m"): (1, 7, 5, 0)}


async def test_an_engines_own_rate_limit_headers_give_way(stage):
    theirs = ok(extra=b"X-RateLimit-Limit-Requests: 9\r\nx-ratelimit-remaining-tokens: 9\r\n")
    await open_with(stage, key("anna", tokens_per_minute=100), engine=theirs)
    reply = await stage.request(stage.post(extra=bearer("anna")))
    assert reply.header("x-ratelimit-limit-requests") is None
    assert reply.header("x-ratelimit-remaining-tokens") == "100"


@pytest.mark.parametrize("limits", [{}, {"requests_per_minute": 10}, {"max_concurrent": 1}])
async def test_the_same_request_again_and_again_is_known_and_counted_every_time(stage, limits):
    """Byte for byte the same, requests and answers: nothing that is remembered of them may leave their key out."""
    one = await open_with(stage, key("anna", **limits))
    client = await stage.client()
    for n in range(8):
        reply = await client.request(stage.post(extra=bearer("anna")))
        assert (reply.status, reply.body) == (200, ANSWER)
        left = reply.header("x-ratelimit-remaining-requests")
        assert left == (str(9 - n) if "requests_per_minute" in limits else None)
        assert one.seen[-1].header(b"authorization") is None
    assert stage.used() == {("anna", "m"): (8, 56, 40, 0)}
    assert stage.key_cells.totals(0) == (8, 96, 0)
    stage.gateway.access.replace(KeyTable())
    assert (await client.request(stage.post(extra=bearer("anna")))).status == 401


async def test_tokens_beyond_the_limit_get_429(stage):
    await open_with(stage, key("anna", tokens_per_minute=20))
    client = await stage.client()
    left = []
    for _ in range(2):
        reply = await client.request(stage.post(extra=bearer("anna")))
        left.append(reply.header("x-ratelimit-remaining-tokens"))
    assert left == ["20", "8"]
    reply = await client.request(stage.post(extra=bearer("anna")))
    assert (reply.status, reply.error["type"]) == (429, "tokens")
    assert 13 <= int(reply.header("retry-after")) <= 15, "a debt of 4, and one to begin with, at 20 a minute"


async def test_requests_at_the_same_time_are_limited_and_every_way_out_frees_a_place(stage):
    async def silent(connection, _):
        await connection.wait_closed()

    one = await stage.engine(silent)
    await stage.open(one, keys=KeyTable(keys=(key("anna", max_concurrent=2),)), max_attempts=1)
    first, second = await stage.client(), await stage.client()
    for client in (first, second):
        await client.send(stage.post(extra=bearer("anna")))
    await stage.until(lambda: len(one.seen) == 2)
    reply = await stage.request(stage.post(extra=bearer("anna")))
    assert (reply.status, reply.error["type"], reply.header("retry-after")) == (
        429,
        "concurrent_requests",
        "1",
    )
    first.close()  # a client that goes away
    await stage.until(lambda: stage.key_cells.all_open(0) == 1)
    one.connections[1].reset()  # an engine that fails
    assert (await second.reply()).status == 502
    assert stage.key_cells.all_open(0) == 0
    one.behave = stage.answer(ok())
    assert (await stage.request(stage.post(extra=bearer("anna")))).status == 200
    assert (await stage.request(stage.post(b"{", extra=bearer("anna")))).status == 400
    assert stage.key_cells.all_open(0) == 0


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (ok(), (7, 5)),
        (ok(b'{"model":"m","usage":{"prompt_tokens":3,"total_tokens":3},"x":"' + b"y" * 300_000 + b'"}'), (3, 0)),
        (ok(b'{"data":"' + b"y" * 300_000 + b'","usage":{"prompt_tokens":3,"total_tokens":3}}'), (3, 0)),
        (ok(b'{ "usage" : { "prompt_tokens" : 3, "details": {"a": 1}, "completion_tokens" : 4 } }'), (3, 4)),
        (ok(b'{"usage":{"input_tokens":8,"output_tokens":9,"cache":{"a":{}}}}'), (8, 9)),
        (ok(b'{"usage":{"total_tokens":8}}'), (8, 0)),
        (ok(b'{"usage":null,"x":{"usage":7}}'), (0, 0)),
        (ok(b'{"usage":{"prompt_tokens":"many"}}'), (0, 0)),
        (ok(b'{"usage":{"prompt_tokens":-5,"completion_tokens":99999999999}}'), (0, 10_000_000)),
        (ok(b"{}"), (0, 0)),
        (CHUNKED + chunks(ANSWER, 7), (7, 5)),
        (ok().replace(b"200 OK", b"400 Bad Request"), (0, 0)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_usage_is_read_from_every_kind_of_answer(stage, answer, usage, version):
    await open_with(stage, key("anna"), engine=answer)
    data = stage.post(extra=bearer("anna")).replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1)
    reply = await stage.request(data)
    assert reply.complete
    assert stage.used() == {("anna", "m"): (1, *usage, 0)}


def test_the_body_used_here_is_json():
    assert json.loads(ANSWER)["usage"]["total_tokens"] == 12


async def test_the_priority_of_a_key_is_that_of_its_requests(stage):
    async def silent(connection, _):
        await connection.wait_closed()

    one = await stage.engine(silent)
    await stage.open(one, keys=KeyTable(keys=(key("anna", priority=5),)))
    client = await stage.client()
    await client.send(stage.post(b'{"model":"m","priority":-9}', extra=bearer("anna")))
    await stage.until(lambda: one.seen)
    (connection,) = stage.gateway.connections
    assert connection._exchange.request.claim.priority == 5, "never more urgent than the key allows"
