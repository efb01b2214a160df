"""What streams under a key have used: the numbers are the engine's, and the client sees no trace of the asking."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from shoal.gateway.keys import KeyTable
from shoal.gateway.usage import BodyWatch, StreamWatch, Usage, last_usage
from support.keys import bearer, key
from support.sim import Sim, start

pytestmark = pytest.mark.usefixtures("reading")

MODEL = "m"
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
SAY = [{"role": "user", "content": 'Tell a story with "usage":{"prompt_tokens":99} in it.'}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": SAY, "max_tokens": 40, "ignore_eos": True},
    COMPLETIONS: {"prompt": "Once upon a time", "max_tokens": 40, "ignore_eos": True},
    MESSAGES: {"messages": SAY, "max_tokens": 40},
}
FINGERPRINT = re.compile(rb',"system_fingerprint":"[^"]*"')


@pytest.fixture(scope="module")
def sims():
    running = [start("--time-scale", "0", "--model", MODEL, "--max-model-len", "4096") for _ in range(2)]
    yield running
    for sim in running:
        sim.http.close()
        sim.process.kill()
        sim.process.wait()


@pytest.fixture(autouse=True)
def calm(sims: list[Sim]) -> None:
    for sim in sims:
        sim.fault(kind="clear")


class Port:
    """Where a simulated engine listens, in the shape of the stage's engines."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def stop(self) -> None:
        """Nothing: the fixture ends it."""


async def open_gateway(stage, sims: list[Sim], *, token_ids: bool = True, **settings: Any) -> None:
    stage.engines.extend(Port(sim.port) for sim in sims)
    route = stage.route(*stage.engines, token_ids=token_ids)
    route = type(route)(model=MODEL, policy="round_robin", engines=route.engines, max_model_len=4096)
    settings.setdefault("keys", KeyTable(keys=(key("anna", tokens_per_minute=100_000),)))
    await stage.open(table=stage.table({MODEL: route}), **settings)


def request(stage, path: str, **more: Any) -> bytes:
    body = {"model": MODEL, "stream": True} | BODIES[path] | more
    return stage.post(json.dumps(body).encode(), path, extra=bearer("anna"))


async def of_the_engine(sim: Sim, path: str) -> tuple[int, int]:
    """Return the usage that the engine names in an answer that is not streamed."""
    body = {"model": MODEL} | BODIES[path]
    usage = (await asyncio.to_thread(sim.http.post, path, json=body)).json()["usage"]
    if path == MESSAGES:
        return usage["input_tokens"], usage["output_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def told(body: bytes) -> bytes:
    """Return a stream without what differs from one request to the next."""
    body = re.sub(rb'"(id|created)":("[^"]*"|\d+)', b"", body)
    return FINGERPRINT.sub(b"", body)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES])
@pytest.mark.parametrize("resume", ["exact", "text", "off"])
async def test_the_stream_is_that_of_a_gateway_without_keys_and_the_usage_the_engines(
    stage, sims, path, resume
):
    direct = await asyncio.to_thread(
        sims[0].http.post, path, json={"model": MODEL, "stream": True} | BODIES[path]
    )
    await open_gateway(stage, sims[:1], resume=resume)
    reply = await stage.request(request(stage, path))
    # The last chunk's fingerprint is in the chunk with the usage as soon as that is asked for: it goes with it.
    assert told(reply.body) == told(direct.content)
    assert reply.header("x-ratelimit-remaining-tokens") == "100000"
    prompt, completion = await of_the_engine(sims[0], path)
    assert stage.used() == {("anna", MODEL): (1, prompt, completion, 0)}
    assert stage.key_cells.totals(0) == (1, prompt + completion, 0)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"include_usage": True}, True),
        ({"include_usage": True, "continuous_usage_stats": True}, True),
        ({"include_usage": False}, False),
        ({"include_usage": False, "continuous_usage_stats": True}, False),
        ({}, False),
        (None, False),
    ],
)
async def test_clients_get_the_usage_they_ask_for_and_no_other(stage, sims, path, options, wanted):
    await open_gateway(stage, sims[:1])
    reply = await stage.request(request(stage, path, stream_options=options))
    chunks = [json.loads(e[6:]) for e in reply.body.decode().split("\n\n") if e and "[DONE]" not in e]
    prompt, completion = await of_the_engine(sims[0], path)
    usages = [c["usage"] for c in chunks if c.get("usage") and not c["choices"]]
    assert [(u["prompt_tokens"], u["completion_tokens"]) for u in usages] == [(prompt, completion)] * wanted
    continuous = bool(options and options.get("continuous_usage_stats") and options["include_usage"])
    assert any(c.get("usage") for c in chunks if c["choices"]) is continuous
    assert stage.used() == {("anna", MODEL): (1, prompt, completion, 0)}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("token_ids", "cut"), [(True, 0), (True, 7), (True, 39), (False, 20)])
async def test_a_stream_that_goes_on_elsewhere_is_charged_once(stage, sims, path, token_ids, cut):
    await open_gateway(stage, sims, token_ids=token_ids)
    await asyncio.to_thread(sims[0].fault, kind="cut", after_tokens=cut)
    reply = await stage.request(request(stage, path))
    assert b"[DONE]" in reply.body
    assert b'"usage":{"prompt' not in reply.body.replace(rb"\"", b"")
    prompt, completion = await of_the_engine(sims[1], path)
    assert stage.used() == {("anna", MODEL): (1, prompt, completion, 0)}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES])
async def test_the_same_stream_again_and_again_is_counted_every_time(stage, sims, path):
    await open_gateway(stage, sims[:1])
    client = await stage.client()
    for _ in range(5):
        reply = await client.request(request(stage, path))
        assert reply.status == 200
        assert b'"usage":{"prompt' not in reply.body
    prompt, completion = await of_the_engine(sims[0], path)
    assert stage.used() == {("anna", MODEL): (5, 5 * prompt, 5 * completion, 0)}


async def test_a_client_that_leaves_early_pays_for_what_it_got(stage, sims):
    slow = await asyncio.to_thread(start, "--model", MODEL, "--max-model-len", "4096")
    try:
        prompt, _ = await of_the_engine(sims[0], CHAT)
        await open_gateway(stage, [slow])
        client = await stage.client()
        await client.send(request(stage, CHAT, max_tokens=2000))
        seen = b""
        while seen.count(b'"delta"') < 6:
            seen += await client.reader.read(65536)
        client.close()
        await stage.until(lambda: stage.key_cells.totals(0)[2] == 0)
        ((_, used),) = stage.used().items()
        assert used[:2] == (1, prompt)
        assert 4 <= used[2] <= seen.count(b'"delta"') + 5
    finally:
        slow.http.close()
        slow.process.kill()
        slow.process.wait()


async def test_a_stream_under_a_limit_that_was_broken_for_good_is_charged_for_what_came(stage, sims):
    await open_gateway(stage, sims[:1])
    await asyncio.to_thread(sims[0].fault, kind="cut", after_tokens=10)
    reply = await stage.request(request(stage, CHAT))
    assert b"stream_broken" in reply.body
    prompt, _ = await of_the_engine(sims[0], CHAT)
    assert stage.used() == {("anna", MODEL): (1, prompt, 10, 0)}


async def test_streams_of_the_responses_api_are_counted_by_their_last_event(stage):
    events = (
        b'event: response.created\ndata: {"type":"response.created","response":{"usage":null}}\n\n'
        b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n'
        b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":8,"output_tokens":3,'
        b'"output_tokens_details":{"reasoning_tokens":0},"total_tokens":11}}}\n\n'
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    one = await stage.engine(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events))
    await stage.open(one, keys=KeyTable(keys=(key("anna"),)))
    body = b'{"model":"m","input":"x","stream":true}'
    reply = await stage.request(stage.post(body, "/v1/responses", extra=bearer("anna")))
    assert reply.body == events
    assert one.seen[0].body == body, "nothing is asked for there"
    assert stage.used() == {("anna", "m"): (1, 8, 3, 0)}


async def test_without_keys_the_request_goes_on_as_it_came(stage):
    one = await stage.engine()
    await stage.open(one)
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":false}}'
    await stage.request(stage.post(body))
    assert one.seen[0].body == body


async def test_all_else_in_a_body_with_stream_options_stays_byte_for_byte(stage):
    one = await stage.engine()
    await stage.open(one, keys=KeyTable(keys=(key("anna"),)))
    body = b'{"temperature":1.50e0,"stream_options":{"x":1},"model":"m","stream":true,"s":"\\u00e9\\/ "}'
    await stage.request(stage.post(body, extra=bearer("anna")))
    sent = one.seen[0].body
    for piece in (b'"temperature":1.50e0', b'"s":"\\u00e9\\/ "', b'"x":1', b'"include_usage":true'):
        assert piece in sent
    assert json.loads(sent) == json.loads(body) | {
        "stream_options": {"x": 1, "include_usage": True, "continuous_usage_stats": False}
    }


async def test_stream_options_that_are_none_are_left_to_the_engine(stage):
    one = await stage.engine()
    await stage.open(one, keys=KeyTable(keys=(key("anna"),)))
    body = b'{"stream_options":"yes","model":"m","stream":true}'
    await stage.request(stage.post(body, extra=bearer("anna")))
    assert one.seen[0].body == body


USED = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_only_the_event_with_the_usage_is_taken_out(end: bytes):
    watch = StreamWatch(whole=True)
    watch.begin(strip=True, repeated=0)
    text = b'data: {"choices":[{"delta":{"content":"\\"usage\\":{}"}}]}'
    out = watch.feed(text + end + USED + end + b"data: [DONE]" + end)
    assert out == text + b"\n\ndata: [DONE]\n\n"
    assert watch.usage == Usage(3, 4)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 600, 2000])
def test_usage_is_found_wherever_a_body_is_cut(size: int):
    body = (
        b'{"a":"' + b"x" * 1500 + b'","usage":{"prompt_tokens":3,"d":{"e":1},"completion_tokens":4},"b":"y"}'
    )
    watch = BodyWatch(chunked=False)
    for i in range(0, len(body), size):
        watch.see(body[i : i + size])
    assert watch.usage == Usage(3, 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'"usage"',
        b'"usage":',
        b'"usage":{',
        b'"usage":{"prompt_tokens":1',
        b'"usage":{]}',
        b'{"usage":"usage"}',
    ],
)
def test_what_is_no_usage_is_none(data: bytes):
    assert last_usage(data) is None
