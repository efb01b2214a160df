"""What is remembered of requests, and that nothing is of those that are like any other."""

from __future__ import annotations

import json

from shoal.gateway.trace import name_in

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def test_names_that_can_be_told():
    assert name_in(b" a b ") == b"a b"
    for bad in (b"\xff", b"x" * 201, b"a\tb", b""):
        assert name_in(bad) == b""


async def test_an_ordinary_request_leaves_nothing_behind(stage):
    await stage.open(await stage.engine(), await stage.engine())
    gateway = stage.gateway
    for _ in range(3):
        reply = await stage.request(stage.post())
        assert reply.header("x-request-id") is None
    assert not gateway.traces._kept


async def test_a_request_with_a_name_is_told_with_what_the_policy_saw(stage):
    engines = [await stage.engine(), await stage.engine()]
    await stage.open(table=stage.table({"m": stage.route(*engines, policy="least_connections")}))
    gateway = stage.gateway
    reply = await stage.request(stage.post(extra="X-Request-ID: My-1\r\n"))
    assert reply.header("x-request-id") == "My-1"
    for name in ("My-1", "chatcmpl-My-1"):
        (told,) = gateway.traces.find(name)
        assert (told.status, told.model, told.attempts, told.followed) == (200, "m", 1, True)
        (step,) = told.steps
        assert (step.what, step.policy, step.of) == ("picked", "least_connections", 2)
        assert [row["open"] for row in step.candidates] == [0, 0]
        assert step.engine == told.engine == reply.header("x-shoal-engine")
    assert gateway.traces.find("my-1") == ()


async def test_what_failed_and_was_tried_again_is_told_and_the_answer_has_a_name(stage):
    async def reset(connection, _):
        connection.reset()

    await stage.open(await stage.engine(reset), await stage.engine())
    gateway = stage.gateway
    replies = [await stage.request(stage.post()) for _ in range(2)]
    (reply,) = [r for r in replies if r.header("x-shoal-attempts")]
    (told,) = gateway.traces.find(reply.header("x-request-id"))
    assert (told.status, told.attempts, told.followed) == (200, 2, False)
    assert [step.what for step in told.steps] == ["failed", "picked"]
    assert told.steps[0].engine == "n0/m"
    assert told.engine == "n1/m"


async def test_an_error_of_the_gateway_has_a_name_to_ask_for(stage):
    async def reset(connection, _):
        connection.reset()

    await stage.open(await stage.engine(reset))
    gateway = stage.gateway
    reply = await stage.request(stage.post())
    assert reply.status == 502
    (told,) = gateway.traces.find(reply.header("x-request-id"))
    assert (told.status, told.engine) == (502, "n0/m")


async def test_what_is_refused_before_an_engine_is_looked_for_is_told(stage):
    await stage.open(await stage.engine())
    gateway = stage.gateway
    wrong = stage.post(body=b'{"model":"none"}', extra="X-Request-ID: My-1\r\n")
    reply = await stage.request(wrong)
    assert (reply.status, reply.header("x-request-id")) == (404, "My-1")
    (told,) = gateway.traces.find("My-1")
    assert (told.status, told.model, told.engine, told.attempts) == (404, "none", "", 0)
    (step,) = told.steps
    assert (step.what, "does not exist; there are: m" in step.text) == ("refused", True)
    assert (await stage.request(stage.post(body=b'{"model":"none"}'))).header("x-request-id") is None


async def test_where_no_engine_is_ready_the_refusal_has_a_name_to_ask_for(stage):
    await stage.open(table=stage.table({"m": stage.route()}))
    reply = await stage.request(stage.post())
    assert reply.status == 503
    (told,) = stage.gateway.traces.find(reply.header("x-request-id"))
    assert [(step.what, "No engine of model 'm' is ready" in step.text) for step in told.steps] == [
        ("refused", True)
    ]


async def test_all_requests_are_named_and_their_engines_learn_the_name(stage):
    engine = await stage.engine()
    await stage.open(engine, explain="all", explain_kept=2)
    gateway = stage.gateway
    replies = [await stage.request(stage.post()) for _ in range(3)]
    names = [reply.header("x-request-id") for reply in replies]
    assert len(set(names)) == 3
    assert [seen.header(b"x-request-id").decode() for seen in engine.seen] == names
    assert gateway.traces.find(names[0]) == (), "the oldest gave way"
    assert gateway.traces.find(names[2])[0].engine == "n0/m"


async def test_an_engine_that_names_the_answer_itself_is_not_corrected(stage):
    ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Request-Id: theirs\r\n\r\n{}"
    await stage.open(await stage.engine(ok))
    reply = await stage.request(stage.post(extra="x-request-id: mine\r\n"))
    assert reply.header("x-request-id") == "theirs"


async def test_a_slow_request_is_kept(stage):
    await stage.open(await stage.engine(), explain_slow=1e-9)
    gateway = stage.gateway
    await stage.request(stage.post())
    (told,) = gateway.traces._kept
    assert (told.engine, told.status, told.steps) == ("n0/m", 200, ())


async def test_a_resumed_stream_is_found_by_the_id_in_its_events(stage):
    def chunk(text: str, ids: str) -> bytes:
        data = (
            '{"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
            f'"delta":{{"content":"{text}"}},"finish_reason":null,"token_ids":[{ids}]}}]}}'
        )
        event = f"data: {data}\n\n".encode()
        return b"%x\r\n%b\r\n" % (len(event), event)

    async def dies(connection, _):
        await connection.send(STREAM + chunk("a", "1"))
        connection.reset()

    await stage.open(await stage.engine(dies))
    gateway = stage.gateway
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    reply = await stage.request(stage.post(body))
    assert b"error" in reply.body, "no other engine is left"
    (told,) = gateway.traces.find("chatcmpl-7")
    assert [step.what for step in told.steps] == ["failed", "broken"]
    assert told.stream
    assert told.events >= 1
    assert told.first > 0
