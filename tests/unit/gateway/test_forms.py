"""Events of a known form are passed on and kept just like events that are searched and decoded."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.gateway.counters import NO_MODEL
from shoal.gateway.events import MAX_CHUNK, Dechunker, StreamError, whole_chunk
from shoal.gateway.forms import form_of
from shoal.gateway.outcomes import WIDTH
from shoal.gateway.relay import Relay
from shoal.gateway.request import Request
from shoal.gateway.response_head import ResponseHead
from shoal.gateway.splice import EngineError
from shoal.gateway.stream import StreamExchange
from shoal.gateway.transcript import FOLD_PIECES, Transcript
from shoal.gateway.upstream import UpstreamConnection
from support.thorough import tries

CHAT, COMPLETIONS = b"/v1/chat/completions", b"/v1/completions"
DONE = b"data: [DONE]\n\n"
OUTCOMES = memoryview(bytearray(8 * (NO_MODEL + WIDTH))).cast("q")


def event(
    text: Any, ids: list[int] | None = None, *, chat: bool = True, ascii_only: bool = True, **more: Any
) -> bytes:
    """Return a chunk as vLLM sends it."""
    choice: dict[str, Any] = {"index": 0, **({"delta": {"content": text}} if chat else {"text": text})}
    choice |= {"logprobs": None, "finish_reason": None} | {
        k: v for k, v in more.items() if k in ("finish_reason", "delta")
    }
    if ids is not None:
        choice["token_ids"] = ids
    body = {"id": "c-1", "object": "x", "created": 1, "model": "m", "choices": [choice]}
    body |= {k: v for k, v in more.items() if k not in ("finish_reason", "delta")}
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=ascii_only).encode() + b"\n\n"


texts = st.text(max_size=12) | st.sampled_from(
    ["", " word", '"', "\\", '\\"', "\n", '"},"logprobs":null', 'token_ids":[7]', "é", "\u2028"]
)
id_lists = st.lists(st.integers(0, 200_000), max_size=4)


def state(said: Transcript) -> dict[str, Any]:
    """Return all that a transcript knows."""
    said.read()
    if said.overflown:
        return {"overflown": True}  # what there was before does not matter any more
    names = ["chars", "covered", "counted", "finish_reason", "reasoning", "last_reasoning", "tool_calls"]
    names += ["several", "text"]
    arrays = {name: list(getattr(said, name)) for name in ("ids", "mark_ids", "mark_chars")}
    return {name: getattr(said, name) for name in names} | arrays


def chunk(content: bytes) -> bytes:
    """Return a chunk with its framing."""
    return b"%x\r\n%b\r\n" % (len(content), content)


class Stream(StreamExchange):
    """Does nothing about what cannot go on."""

    def _on_stream_error(self, relay: Relay, problem: StreamError) -> None:
        raise problem


class Both:
    """A stream twice: chunk by chunk, known forms used, and as bytes that have to be searched."""

    def __init__(self, path: bytes, *, strip: bool, limit: int = 1 << 20) -> None:
        self.quick, self.slow = (Relay(path, b"{}", "exact", limit) for _ in range(2))
        for relay in (self.quick, self.slow):
            relay.begin(chunked=True, strip=strip)
        self.written: list[bytes] = []
        client = SimpleNamespace(write=self.written.append)
        request = Request(b"POST", path, b"", 0, False, False, True, False, False)
        reads = SimpleNamespace(add=lambda _: None)
        gateway = SimpleNamespace(coarse_now=0.0, outcomes=OUTCOMES, reads=reads)
        exchange = Stream(gateway, client, request, None)  # type: ignore[arg-type]
        exchange._relay, exchange._chunk = self.quick, True
        exchange._upstream = self.upstream = SimpleNamespace(on_chunk=exchange.on_chunk)  # type: ignore[assignment]
        self.known = 0
        self.searched = 0
        feed_content = self.quick.feed_content

        def searching(content: bytes) -> bytes:
            self.searched += 1
            return feed_content(content)

        self.quick.feed_content = searching  # type: ignore[method-assign]

    def feed(self, content: bytes) -> None:
        """Hold both against each other for a chunk."""
        data = chunk(content)
        searched = self.searched
        assert self.upstream.on_chunk(data)
        self.known += self.searched == searched
        out = self.slow.feed(data)
        assert self.written == ([chunk(out)] if out else [])
        self.written.clear()

    def end(self) -> None:
        """Hold what both know of the stream against each other."""
        assert self.quick.said is not None
        assert self.slow.said is not None
        assert state(self.quick.said) == state(self.slow.said)
        assert self.quick.done == self.slow.done


@settings(max_examples=tries(150), deadline=None)
@given(
    st.lists(
        st.tuples(
            texts,
            id_lists,
            st.sampled_from(["", "", "", "", "role", "no ids", "reasoning", "comment", "two", "usage"]),
        ),
        max_size=40,
    ),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_streams_come_out_the_same_with_forms_known_and_without(said, chat, strip, with_ids):
    both = Both(CHAT if chat else COMPLETIONS, strip=strip)
    for text, ids, kind in [(" first", [1], ""), (" second", [2], ""), *said]:
        made = event(
            text, ids if with_ids and kind != "no ids" else None, chat=chat, ascii_only=len(text) % 2 == 0
        )
        if kind == "role" and chat:
            made = event("", ids, delta={"role": "assistant", "content": text}, prompt_token_ids=[1, 2])
        elif kind == "reasoning" and chat:
            made = event("", ids, delta={"reasoning": text})
        elif kind == "comment":
            made = b": nothing\n\n"
        elif kind == "two":
            made += event(text, ids if with_ids else None, chat=chat)
        elif kind == "usage":
            made = event(text, ids, chat=chat, usage={"prompt_tokens": 3, "completion_tokens": 4})
        both.feed(made)
    assert both.known, "the second event is of the form of the first"
    both.feed(event("", [], chat=chat, finish_reason="stop"))
    both.feed(DONE)
    both.end()


def test_a_long_stream_of_one_form_is_kept_whole():
    both = Both(CHAT, strip=True)
    for number in range(2000):
        both.feed(event(f" {number}" if number % 3 else "", [number, number + 1][: 1 + number % 2]))
    assert both.known > 1900
    both.end()


def test_an_event_in_pieces_is_put_together_though_the_form_is_known():
    both = Both(CHAT, strip=True)
    whole = event(" word", [5])
    for piece in (whole, whole, whole[:40], whole[40:], whole, whole[:-1], whole[-1:], whole):
        both.feed(piece)
    both.end()


def test_many_events_in_one_read_take_time_in_proportion_and_lose_all_their_ids():
    """They were searched again from the start for each one's ids once: 30 times as long with 1,000 in a read."""
    relay = Relay(CHAT, b"{}", "exact", 1 << 24)
    relay.begin(chunked=False, strip=True)
    many = b"".join(event(f" {number}", [number, 7]) for number in range(20_000))
    before = time.process_time()
    out = relay.feed(many)
    assert time.process_time() - before < 5, "seconds; it was minutes"
    assert out.count(b'"token_ids":null') == 20_000
    assert b"[" not in out.replace(b'"choices":[', b"")


def test_an_error_is_found_though_the_form_is_known():
    both = Both(CHAT, strip=True)
    for _ in range(3):
        both.feed(event(" word", [5]))
    assert both.known
    with pytest.raises(EngineError, match="gone"):
        both.upstream.on_chunk(chunk(b'data: {"error":{"message":"gone"}}\n\n'))


def test_an_event_may_become_longer_than_the_longest_that_is_taken_whole():
    both = Both(CHAT, strip=True)
    both.feed(event(" word", [5]))
    both.feed(event("x" * (MAX_CHUNK - len(event("", []))), []))  # null is longer than []
    assert both.known
    both.end()


def test_a_stream_that_is_too_long_to_be_continued_goes_on_and_nothing_more_of_it_is_kept():
    both = Both(CHAT, strip=True, limit=20_000)
    for number in range(3000):
        both.feed(event(f" {number}", [number]))
    said = both.quick.said
    assert said is not None
    assert said.overflown
    assert both.known > 2900
    assert len(said.pieces) < FOLD_PIECES
    assert not said.ids
    both.end()


@pytest.mark.parametrize(
    "wrong",
    [
        b'data: {"id":"c-1","x":1}\n\n',
        event(" a", [1]).replace(b" a", b" \\q"),
        event(" a", [1]).replace(b" a", b"\xff"),
        event(" a", [1]).replace(b"[1]", b'["1"]'),
        event(" a", [1]).replace(b"[1]", b"[-1]"),
        event(" a", [1]).replace(b"[1]", b"[1,]"),
        event(" a", [1]).replace(b" a", b"a\\"),
    ],
)
def test_what_cannot_be_understood_makes_a_stream_one_that_cannot_be_continued(wrong):
    both = Both(CHAT, strip=True)
    for content in (event(" a", [1]), event(" b", [2]), wrong, event(" c", [3])):
        both.feed(content)
    both.end()
    assert both.quick.said is not None
    assert both.quick.said.overflown == (b"choices" in wrong)


@pytest.mark.parametrize(
    "other",
    [
        event(" a", [1], finish_reason="stop"),
        event(" a", [1], usage={"prompt_tokens": 1}),
        event(" a", [1], prompt_token_ids=[1]),
        event(" a", [1], error="x"),
        event(" a", [1], delta={"role": "assistant", "content": "a"}),
        event(" a", [1], delta={"tool_calls": [], "content": "a"}),
        event(" a", [1], delta={"reasoning": "b", "content": "a"}),
        event(None, [1]),
        event('"', [1]),
        event(" a", [1]) * 2,
        event(" a", [1]).replace(b'"content":', b'"content": '),
        event(" a", [1]).replace(b'"content":" a"', b'"content":" a","content":" b"'),
        event(" a", [1]).replace(b'"token_ids":[1]', b'"token_ids":[1],"token_ids":[2]'),
        event(" a", [1])[:-2],
        b"data: {}\n\n",
        b": comment\n\n",
        DONE,
        b"",
    ],
)
def test_events_that_say_more_have_no_form(other):
    assert form_of(event(" a", [1]), strip=True) is not None
    assert form_of(other, strip=True) is None


def by_llhttp(data: bytes) -> list[bytes] | None:
    """Return the chunks that llhttp finds in `data`, None if it refuses it."""
    found: list[bytes] = []

    class Events:
        def on_body(self, content: bytes) -> None:
            found[-1] += content

        def on_chunk_header(self) -> None:
            found.append(b"")

        def on_chunk_complete(self) -> None:
            complete.append(found[-1])

    complete: list[bytes] = []
    parser = httptools.HttpResponseParser(Events())
    try:
        parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        parser.feed_data(data)
    except httptools.HttpParserError:
        return None
    return complete


sizes = st.sampled_from(
    [b"5", b"05", b"0x5", b"+5", b" 5", b"5 ", b"5;a=b", b"-5", b"a", b"A", b"1_0", b"0", b"", b"3ff", b"400"]
)


@given(
    sizes,
    st.integers(0, 1030),
    st.sampled_from([b"\r\n", b"\n", b"\r", b"", b"\r\n0", b"\r\n\r\n"]),
    st.sampled_from([b"\r\n", b"\n"]),
)
def test_a_chunk_is_taken_whole_only_as_llhttp_takes_it(size, length, end, line_end):
    data = size + line_end + b"x" * length + end
    content = whole_chunk(data)
    if content is not None:
        assert by_llhttp(data) == [content]


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 255, 256, MAX_CHUNK])
def test_chunks_of_every_usual_size_are_taken_whole(size):
    for form in (b"%x", b"%X"):
        assert whole_chunk(form % size + b"\r\n" + b"\n" * size + b"\r\n") == b"\n" * size
    assert whole_chunk(b"%x\r\n" % (MAX_CHUNK + 1) + b"x" * (MAX_CHUNK + 1) + b"\r\n") is None


class Exchange:
    """Takes a response apart: chunks that come alone, and the rest."""

    def __init__(self, upstream: UpstreamConnection) -> None:
        self.request = Request(b"POST", b"/", b"", 0, False, False, True, False, False)
        self.gateway = SimpleNamespace(outbox=SimpleNamespace(add=UpstreamConnection.flush))
        self.upstream = upstream
        self.rest = Dechunker()
        self.content = b""
        self.alone = 0
        self.ended = ""

    def on_head(self, head: ResponseHead, first: bytes) -> None:
        self.upstream.on_chunk = self.on_chunk
        self.on_body(first)

    def on_body(self, data: bytes) -> None:
        self.content += self.rest.feed(data)

    def on_chunk(self, data: bytes) -> bool:
        content = whole_chunk(data)
        if content is None:
            return False
        self.alone += 1
        self.content += content
        return True

    def on_end(self) -> None:
        self.ended = "well"

    def on_truncated(self, reason: str) -> None:
        self.ended = reason


class Idle:
    """A pool and a transport with nothing to do."""

    def give(self, connection: UpstreamConnection) -> None: ...
    def forget(self, connection: UpstreamConnection) -> None: ...
    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...
    def get_extra_info(self, name: str) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


def receive(pieces: list[bytes]) -> Exchange:
    """Return the exchange that has had a chunked response, its body in `pieces`."""
    upstream = UpstreamConnection(Idle())  # type: ignore[arg-type]
    upstream.connection_made(Idle())  # type: ignore[arg-type]
    exchange = Exchange(upstream)
    upstream.send(exchange, b"", b"")  # type: ignore[arg-type]
    for piece in (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *pieces):
        if piece and not exchange.ended:
            upstream.data_received(piece)
    return exchange


@settings(max_examples=tries(200), deadline=None)
@given(
    st.lists(
        st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n"]),
        max_size=12,
    ),
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 30)), max_size=4),
    st.sampled_from([b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"00\r\n\r\n"]),
)
def test_however_chunks_come_their_content_and_their_end_are_the_same(contents, cuts, last):
    pieces = [b"%x\r\n%b\r\n" % (len(content), content) for content in contents] + [last]
    for number, place in cuts:
        index = number % len(pieces)
        pieces[index : index + 1] = [pieces[index][:place], pieces[index][place:]]
    exchange = receive(pieces)
    assert (exchange.content, exchange.ended) == (b"".join(contents), "well")
    if not cuts:
        assert exchange.alone == max(0, len(contents) - 1), (
            "the first is judged by llhttp, which stands at its end then"
        )


@pytest.mark.parametrize(
    "wrong",
    [
        b"hello",
        b"5\r\nhello!\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"x\r\n\r\n",
        b"5\nhello\n",
        b"0x5\r\nhello\r\n",
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_chunks_that_are_wrong_break_the_stream_whatever_came_before(wrong, cut):
    good = [b"5\r\nhello\r\n"] * 3
    exchange = receive([*good, wrong[:cut], wrong[cut:], b"0\r\n\r\n"])
    assert exchange.content.startswith(b"hellohellohello")
    assert exchange.ended.startswith("invalid response")


def test_a_size_that_comes_in_two_pieces_is_one_size():
    exchange = receive(
        [b"5\r\nhello\r\n", b"5\r\nhello\r\n1", b"5\r\n" + b"x" * 0x15 + b"\r\n", b"0\r\n\r\n"]
    )
    assert (exchange.content, exchange.ended) == (b"hellohello" + b"x" * 0x15, "well")
