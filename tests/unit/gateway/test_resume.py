"""Streams whose engine fails go on on another one, and the client gets what it would have got undisturbed.

The engines are simulated ones: the same token ids have the same continuation everywhere, so answers are compared
byte by byte.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.gateway.counters import Cell
from support.sim import Sim, start
from support.thorough import some

pytestmark = pytest.mark.usefixtures("reading")

MODEL = "m"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Tell me a story about fish, with faces."}]
LIMIT = 48


@pytest.fixture(scope="module")
def sims() -> Iterator[list[Sim]]:
    arguments = (
        "--time-scale",
        "0",
        "--model",
        MODEL,
        "--max-model-len",
        "4096",
        "--enable-auto-tool-choice",
    )
    running = [start(*arguments) for _ in range(3)]
    yield running
    for sim in running:
        sim.http.close()
        sim.process.kill()
        sim.process.wait()


@pytest.fixture(autouse=True)
def calm(sims: list[Sim]) -> None:
    for sim in sims:
        sim.fault(kind="clear")


async def fault(sim: Sim, **what: Any) -> None:
    await asyncio.to_thread(sim.fault, **what)


async def start_over(stage, sims: list[Sim]) -> None:
    """Forget all faults; the next request goes to the first engine."""
    for sim in sims:
        await fault(sim, kind="clear")
    stage.gateway.faults.avoided.clear()
    stage.gateway.routes[MODEL].policy._turn = 0


async def open_gateway(
    stage, sims: list[Sim], *, token_ids: bool = True, max_model_len: int | None = 4096, **settings
):
    """Route to `sims`, the first one first."""
    stage.engines.extend(Port(sim.port) for sim in sims)
    route = stage.route(*stage.engines, token_ids=token_ids)
    route = type(route)(model=MODEL, policy="round_robin", engines=route.engines, max_model_len=max_model_len)
    await stage.open(table=stage.table({MODEL: route}), **settings)


class Port:
    """Where a simulated engine listens, in the shape of the stage's engines."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def stop(self) -> None:
        """Nothing: the fixture ends it."""


def request(stage, path: str, body: dict[str, Any]) -> bytes:
    return stage.post(json.dumps({"model": MODEL, "stream": True} | body).encode(), path)


def body_of(path: str, **more: Any) -> dict[str, Any]:
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "Once upon a time"}
    return prompt | {"max_tokens": LIMIT, "ignore_eos": True} | more


class Story:
    """A stream as a client reads it."""

    def __init__(self, stream: bytes) -> None:
        self.events = [e for e in stream.decode().split("\n\n") if e]
        self.comments = [e for e in self.events if e.startswith(":")]
        data = [e.removeprefix("data: ") for e in self.events if not e.startswith((":", "event:"))]
        self.done = data.count("[DONE]")
        assert self.done == 0 or data[-1] == "[DONE]"
        self.chunks = [json.loads(d) for d in data if d != "[DONE]"]
        self.errors = [c["error"] for c in self.chunks if "error" in c]
        self.chunks = [c for c in self.chunks if "error" not in c]
        self.choices = [choice for c in self.chunks for choice in c["choices"]]

    @property
    def text(self) -> str:
        return "".join((c["delta"].get("content") or "") if "delta" in c else c["text"] for c in self.choices)

    @property
    def ends(self) -> list[tuple[str, Any]]:
        return [(c["finish_reason"], c.get("stop_reason")) for c in self.choices if c["finish_reason"]]

    @property
    def usages(self) -> list[dict[str, int]]:
        return [c["usage"] for c in self.chunks if not c["choices"]]

    @property
    def identities(self) -> set[tuple[Any, ...]]:
        return {(c["id"], c["created"], c["model"], c["object"]) for c in self.chunks}

    @property
    def roles(self) -> list[str]:
        return [c["delta"]["role"] for c in self.choices if "role" in c.get("delta", {})]

    @property
    def shapes(self) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Which fields chunks have, role chunks and what is told only at the end aside."""
        return {
            (tuple(sorted(c)), tuple(sorted(c["choices"][0])))
            for c in self.chunks
            if c["choices"]
            and "role" not in c["choices"][0].get("delta", {})
            and not c["choices"][0]["finish_reason"]
        }


def undisturbed(sim: Sim, path: str, body: dict[str, Any]) -> Story:
    sim.fault(kind="clear")
    reply = sim.http.post(path, json={"model": MODEL, "stream": True} | body)
    assert reply.status_code == 200, reply.text
    return Story(reply.content)


def assert_same(story: Story, wanted: Story) -> None:
    assert story.errors == []
    assert story.text == wanted.text
    assert story.ends == wanted.ends
    assert story.usages == wanted.usages
    assert story.roles == wanted.roles
    assert story.done == 1
    assert len(story.identities) == 1
    assert story.shapes <= wanted.shapes
    assert all(c.get("token_ids") is None and c.get("prompt_token_ids") is None for c in story.choices)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "usage": {"stream_options": {"include_usage": True}},
    "usage so far": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "min_tokens": {"min_tokens": 40, "ignore_eos": False},
    "own end": {"ignore_eos": False, "max_tokens": 400},
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_stream_cut_anywhere_comes_out_as_if_nothing_had_happened(stage, sims, path, variant):
    body = body_of(path, **VARIANTS[variant])
    wanted = await asyncio.to_thread(undisturbed, sims[1], path, body)
    await open_gateway(stage, sims[:2])
    cuts = some(range(LIMIT))
    for cut in cuts:
        how = ("reset", "eof")[cut % 2]
        await start_over(stage, sims)
        await fault(sims[0], kind="cut", after_tokens=cut, how=how)
        reply = await stage.request(request(stage, path, body))
        story = Story(reply.body)
        assert reply.status == 200
        assert_same(story, wanted)
        assert len(story.comments) == (1 if story.comments or cut else 0), cut
    assert stage.metrics.row(0)[Cell.RESUMES] >= len(cuts) - 1
    assert stage.open_requests() == 0


@pytest.mark.parametrize("stop", [["rum"], ["e", "longer than anything there"], "ka"])
@pytest.mark.parametrize("include", [False, True])
async def test_stop_strings_end_the_answer_across_the_seam(stage, sims, stop, include):
    body = body_of(CHAT, max_tokens=120)
    text = (await asyncio.to_thread(undisturbed, sims[1], CHAT, body)).text
    # Something that is there, in the middle, over several tokens.
    middle = text[len(text) // 2 : len(text) // 2 + 9]
    body |= {
        "stop": [middle, *([stop] if isinstance(stop, str) else stop)[1:]],
        "include_stop_str_in_output": include,
    }
    wanted = await asyncio.to_thread(undisturbed, sims[1], CHAT, body)
    assert wanted.ends == [("stop", middle)]
    await open_gateway(stage, sims[:2])
    for cut in some(range(1, len(wanted.choices) + 4)):
        await start_over(stage, sims)
        await fault(sims[0], kind="cut", after_tokens=cut)
        reply = await stage.request(request(stage, CHAT, body))
        assert_same(Story(reply.body), wanted)


async def test_a_stream_survives_two_engines(stage, sims):
    body = body_of(CHAT, max_tokens=200, stream_options={"include_usage": True})
    wanted = await asyncio.to_thread(undisturbed, sims[2], CHAT, body)
    await open_gateway(stage, sims)
    await fault(sims[0], kind="cut", after_tokens=50)
    await fault(sims[2], kind="cut", after_tokens=70)
    reply = await stage.request(request(stage, CHAT, body))
    story = Story(reply.body)
    assert_same(story, wanted)
    assert [c.split("; ")[1].split(" ")[0] for c in story.comments] == ["n2/m", "n1/m"]


def ids_of(story: Story) -> list[int]:
    return [i for choice in story.choices for i in choice.get("token_ids") or []]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stop", [None, "words that never come"])
async def test_token_ids_that_the_client_asks_for_stay_and_come_once(stage, sims, path, stop):
    """Those of a character that is not whole, or of text held back for a stop string, are generated again."""
    body = body_of(path, return_token_ids=True, stop=stop)
    wanted = await asyncio.to_thread(undisturbed, sims[1], path, body)
    await open_gateway(stage, sims[:2])
    for cut in some(range(LIMIT)):
        await start_over(stage, sims)
        await fault(sims[0], kind="cut", after_tokens=cut, how="eof")
        story = Story((await stage.request(request(stage, path, body))).body)
        assert (ids_of(story), story.text) == (ids_of(wanted), wanted.text), cut


async def test_token_ids_come_once_from_three_engines(stage, sims):
    """The second one fails while it generates again what the client has."""
    body = body_of(CHAT, return_token_ids=True, stop="words that never come")
    wanted = await asyncio.to_thread(undisturbed, sims[1], CHAT, body)
    await open_gateway(stage, sims)
    await fault(sims[0], kind="cut", after_tokens=30, how="eof")
    await fault(sims[2], kind="cut", after_tokens=2, how="eof")
    story = Story((await stage.request(request(stage, CHAT, body))).body)
    assert len(story.comments) == 2
    assert (ids_of(story), story.text) == (ids_of(wanted), wanted.text)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_without_token_ids_the_text_goes_on(stage, sims, path):
    body = body_of(path, stream_options={"include_usage": True})
    wanted = await asyncio.to_thread(undisturbed, sims[1], path, body)
    await open_gateway(stage, sims[:2], token_ids=False)
    # In the middle of a character, too: its first tokens have no text.
    for cut in some(range(LIMIT)):
        await start_over(stage, sims)
        await fault(sims[0], kind="cut", after_tokens=cut, how="eof")
        story = Story((await stage.request(request(stage, path, body))).body)
        assert_same(story, wanted)


async def test_tools_go_on_by_text_until_one_is_called(stage, sims):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = body_of(CHAT, tools=tools, tool_choice="auto")
    wanted = await asyncio.to_thread(undisturbed, sims[1], CHAT, body)
    await open_gateway(stage, sims[:2])
    await fault(sims[0], kind="cut", after_tokens=20)
    story = Story((await stage.request(request(stage, CHAT, body))).body)
    assert story.errors == []
    assert story.text[:60] == wanted.text[:60]
    assert story.done == 1


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"n": 2}, "several choices"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "guided decoding"),
    ],
)
async def test_what_cannot_go_on_ends_with_an_error_that_says_why(stage, sims, more, why):
    await open_gateway(stage, sims[:2])
    await fault(sims[0], kind="cut", after_tokens=10)
    reply = await stage.request(request(stage, CHAT, body_of(CHAT, **more)))
    story = Story(reply.body)
    assert reply.complete
    assert story.done == 0
    assert why in story.errors[0]["message"]
    assert story.errors[0]["code"] == "stream_broken"
    assert stage.metrics.row(0)[Cell.BROKEN_STREAMS] == 1
    assert stage.open_requests() == 0


async def test_switched_off_a_broken_stream_ends_with_an_error(stage, sims):
    await open_gateway(stage, sims[:2], resume="off")
    await fault(sims[0], kind="cut", after_tokens=10)
    story = Story((await stage.request(request(stage, CHAT, body_of(CHAT)))).body)
    assert "recovery.resume is off" in story.errors[0]["message"]


async def test_a_stream_ends_with_an_error_when_no_engine_is_left(stage, sims):
    await open_gateway(stage, sims[:2])
    for sim in sims[:2]:
        await fault(sim, kind="cut", after_tokens=10)
    story = Story((await stage.request(request(stage, CHAT, body_of(CHAT)))).body)
    assert "no other engine is left" in story.errors[0]["message"]
    assert story.done == 0


async def test_a_longer_stream_than_the_buffer_ends_with_an_error(stage, sims):
    # What was on its way when the connection was reset may be lost: far less than 100 tokens are enough.
    await open_gateway(stage, sims[:2], resume_buffer=256)
    await fault(sims[0], kind="cut", after_tokens=100)
    story = Story((await stage.request(request(stage, CHAT, body_of(CHAT, max_tokens=200)))).body)
    assert "recovery.resume_buffer" in story.errors[0]["message"]


async def test_anthropic_streams_end_with_an_error_in_their_own_words(stage, sims):
    await open_gateway(stage, sims[:2])
    await fault(sims[0], kind="cut", after_tokens=10)
    body = {"messages": MESSAGES, "max_tokens": 40}
    reply = await stage.request(request(stage, "/v1/messages", body))
    last = reply.body.decode().rstrip().split("\n\n")[-1]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.partition("data: ")[2])["error"]["type"] == "api_error"


async def test_the_death_of_the_engine_core_is_the_engines_fault(stage, launch_sims):
    sims = launch_sims(2)
    body = body_of(CHAT, max_tokens=100)
    wanted = await asyncio.to_thread(undisturbed, sims[1], CHAT, body)
    await open_gateway(stage, sims)
    await fault(sims[0], kind="core", after_tokens=30)
    assert_same(Story((await stage.request(request(stage, CHAT, body))).body), wanted)
    assert stage.faults[0].engine == "n0/m"


async def test_a_lost_engines_streams_move_at_once(stage, sims):
    body = body_of(CHAT, max_tokens=60)
    wanted = await asyncio.to_thread(undisturbed, sims[1], CHAT, body)
    await open_gateway(stage, sims[:2])
    await fault(sims[0], kind="cut", after_tokens=20, how="stall")
    client = await stage.client()
    await client.send(request(stage, CHAT, body))
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"n0/m" in head
    exchange = next(iter(stage.gateway.connections))._exchange
    await stage.until(lambda: exchange.silence() >= 1.5, 6)
    assert exchange._pool.target.id == "n0/m", "silence alone is no fault"
    table = stage.gateway.table
    others = stage.route(stage.engines[1], token_ids=True)
    stage.gateway.apply(stage.table({MODEL: others}, lost=("n0/m",)))
    chunks, _, complete = await client._chunks()
    assert complete
    assert_same(Story(chunks), wanted)
    assert table.lost == ()


async def test_an_engine_that_was_started_anew_is_another_one(stage, sims):
    await open_gateway(stage, sims[:1])
    pool = stage.gateway.routes[MODEL].pools[0]
    route = stage.route(stage.engines[0], token_ids=True, instance="second")
    stage.gateway.apply(stage.table({MODEL: route}))
    assert stage.gateway.routes[MODEL].has_others((pool,))


async def test_a_request_without_a_stream_is_run_again(stage, sims):
    await open_gateway(stage, sims[:2])
    await fault(sims[0], kind="cut", after_tokens=0)
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "max_tokens": 8}).encode()
    reply = await stage.request(stage.post(body, CHAT))
    assert reply.status == 200
    assert reply.header("x-shoal-attempts") == "2"


@pytest.fixture
def launch_sims() -> Iterator[Any]:
    running: list[Sim] = []

    def launch(count: int) -> list[Sim]:
        running.extend(
            start("--time-scale", "0", "--model", MODEL, "--max-model-len", "4096") for _ in range(count)
        )
        return running

    yield launch
    for sim in running:
        sim.http.close()
        sim.process.kill()
        sim.process.wait()
