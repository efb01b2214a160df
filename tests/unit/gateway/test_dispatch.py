"""What is answered by the worker itself, and what goes where."""

from __future__ import annotations

import pytest

import shoal
from shoal.routing.table import ModelRoute


async def test_the_list_of_models_comes_from_the_table(stage):
    body = b'{"object":"list","data":[{"id":"m"}]}'
    table = stage.table({}, models_body=body, model_bodies={"m": b'{"id":"m"}', "org/m": b'{"id":"org/m"}'})
    await stage.open(table=table)
    client = await stage.client()
    reply = await client.request(stage.get("/v1/models"))
    assert (reply.status, reply.body, reply.header("content-type")) == (200, body, "application/json")
    assert reply.header("date")
    for path in ("/v1/models/org/m", "/v1/models/org%2Fm", "/v1/models/org/m?x=y"):
        assert (await client.request(stage.get(path))).json == {"id": "org/m"}


async def test_an_unknown_model_is_404_and_names_the_known_ones(stage):
    engine = await stage.engine()
    await stage.open(
        table=stage.table({"a": stage.route(engine, model="a"), "b": stage.route(engine, model="b")})
    )
    client = await stage.client()
    for request in (stage.post(b'{"model":"nope"}'), stage.get("/v1/models/nope")):
        reply = await client.request(request)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
        assert reply.error["message"] == "The model 'nope' does not exist; there are: a, b."


async def test_before_models_are_known_each_might_exist(stage):
    await stage.open(table=stage.table({}))
    client = await stage.client()
    for request in (stage.post(b'{"model":"m"}'), stage.get("/v1/models/m")):
        reply = await client.request(request)
        assert (reply.status, reply.error["code"]) == (503, "no_engine_ready")
        assert int(reply.header("retry-after")) > 0


async def test_many_models_are_not_all_named(stage):
    engine = await stage.engine()
    await stage.open(table=stage.table({f"m{n:02}": stage.route(engine, model=f"m{n}") for n in range(30)}))
    message = (await stage.request(stage.post(b'{"model":"nope"}'))).error["message"]
    assert message.endswith("m18, m19 and 10 more.")


async def test_a_request_without_a_model_goes_to_the_only_one(stage):
    engine = await stage.engine()
    route = stage.route(engine)
    await stage.open(table=stage.table({"m": route, "alias": route}))
    client = await stage.client()
    for body in (b"{}", b'{"prompt":"x"}', b'{"model":null}', b""):
        assert (await client.request(stage.post(body))).status == 200
    assert (await client.request(stage.get("/v1/responses/r_1"))).status == 200
    assert (await client.request(stage.post(b'{"model":"alias"}'))).status == 200


async def test_a_request_without_a_model_is_400_when_there_are_several(stage):
    engine = await stage.engine()
    await stage.open(
        table=stage.table({"a": stage.route(engine, model="a"), "b": stage.route(engine, model="b")})
    )
    reply = await stage.request(stage.post(b"{}"))
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "model_missing", "model")
    assert "a, b" in reply.error["message"]
    assert (await stage.request(stage.get("/v1/completions", method="OPTIONS"))).status == 200, (
        "CORS preflights pass"
    )


async def test_models_go_to_their_own_engines(stage):
    one, two = await stage.engine(), await stage.engine()
    await stage.open(table=stage.table({"a": stage.route(one, model="a"), "b": stage.route(two, model="b")}))
    for model in (b"a", b"b", b"b"):
        await stage.request(stage.post(b'{"model":"%b"}' % model))
    assert (len(one.seen), len(two.seen)) == (1, 2)


async def test_the_model_of_an_upload_is_found_in_its_form(stage):
    one, two = await stage.engine(), await stage.engine()
    await stage.open(table=stage.table({"a": stage.route(one, model="a"), "b": stage.route(two, model="b")}))
    body = (
        b'--q\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n\0\xff--\r\n'
        b'--q\r\nContent-Disposition: form-data; name="model"\r\n\r\nb\r\n--q--\r\n'
    )
    head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nContent-Type: multipart/form-data; boundary=q\r\n"
    assert (await stage.request(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)).status == 200
    assert (len(one.seen), two.seen[0].body) == (0, body)
    reply = await stage.request(stage.post(path="/v1/audio/transcriptions"))
    assert (reply.status, reply.error["code"]) == (400, "invalid_body")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": 1}', b"nonsense"])
async def test_what_is_no_json_is_400(stage, body):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    reply = await client.request(stage.post(body))
    assert (reply.status, reply.error["code"]) == (400, "invalid_body")
    assert (await client.request(stage.post())).status == 200, "the connection goes on"
    assert len(engine.seen) == 1


async def test_no_ready_engine_is_503_with_progress(stage):
    pending = "1 of 3 engines is loading weights, 41 s so far."
    route = ModelRoute(model="m", policy="least_connections", pending=pending)
    await stage.open(table=stage.table({"m": route}, retry_after=9))
    reply = await stage.request(stage.post())
    assert (reply.status, reply.header("retry-after"), reply.error["code"]) == (503, "9", "no_engine_ready")
    assert reply.error["message"] == pending
    reply = await stage.request(stage.get("/health"))
    assert (reply.status, reply.header("retry-after"), reply.error["message"]) == (503, "9", pending)


async def test_before_the_first_table_everything_is_503(stage):
    await stage.open(table=stage.table({}))
    assert (await stage.request(stage.post(b"{}"))).status == 503
    assert (await stage.request(stage.get("/health"))).status == 503
    assert (await stage.request(stage.post())).status == 503


async def test_health_is_good_with_one_ready_engine(stage):
    await stage.open(await stage.engine(), await stage.dead_engine())
    client = await stage.client()
    for path in ("/health", "/ping", "/health?x=1"):
        assert (await client.request(stage.get(path))).status == 200
    assert (await client.request(stage.get("/ping", method="POST"))).status == 200


async def test_version_is_shoals(stage):
    await stage.open()
    assert (await stage.request(stage.get("/version"))).json == {
        "version": shoal.__version__,
        "server": "shoal",
    }


async def test_only_get_on_what_is_answered_here(stage):
    await stage.open()
    for path in ("/v1/models", "/v1/models/m", "/health", "/version"):
        reply = await stage.request(stage.get(path, method="DELETE"))
        assert (reply.status, reply.error["code"], reply.header("allow")) == (
            405,
            "method_not_allowed",
            "GET, HEAD",
        )


@pytest.mark.parametrize("path", ["/sleep", "/v1/load_lora_adapter", "/v1/nothing", "/v1/../sleep", "*"])
async def test_unknown_and_administrative_paths_are_404(stage, path):
    engine = await stage.engine()
    await stage.open(engine)
    reply = await stage.request(stage.get(path, method="OPTIONS"))
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    assert engine.seen == []
