"""One connection to an engine, against servers that write exactly what they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shoal.engine import line
from shoal.engine.line import Answer, AnswerError, Line, question

ASKED = question("GET", "/metrics", [("host", "e")])
OK = b"HTTP/1.1 200 OK\r\n"


def talk(answers: list[bytes], ask: Callable[[Line], Awaitable[object]], *, end: bool = False) -> object:
    """Return what `ask` returns at a server that gives one of `answers` to each request; `end`: then it hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            for byte in range(len(answer)):  # in the smallest pieces
                writer.write(answer[byte : byte + 1])
                await writer.drain()
        if not end:
            await reader.read()
        writer.close()

    async def run() -> object:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            connection = await Line.connect(*server.sockets[0].getsockname()[:2])
            try:
                async with asyncio.timeout(20):
                    return await ask(connection)
            finally:
                connection.close()

    return asyncio.run(run())


async def once(connection: Line) -> Answer:
    return await connection.ask(ASKED)


def test_a_question_is_a_whole_request() -> None:
    assert question("POST", "/x?y", [("host", "e:1"), ("a", "b")], b"{}") == (
        b"POST /x?y HTTP/1.1\r\nhost: e:1\r\na: b\r\ncontent-length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (OK + b"content-length: 3\r\n\r\nabc", b"abc"),
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", b""),
    ],
    ids=["length", "chunks", "after an interim answer"],
)
def test_answers_of_every_framing_are_whole_and_leave_the_connection_usable(
    answer: bytes, content: bytes
) -> None:
    async def twice(connection: Line) -> list[Answer]:
        found = [await once(connection)]
        assert connection.usable
        return [*found, await once(connection)]

    assert talk([answer, answer], twice) == [Answer(200, "OK", content)] * 2


def test_an_answer_may_last_until_the_end() -> None:
    async def ask(connection: Line) -> tuple[Answer, bool]:
        return await once(connection), connection.usable

    assert talk([OK + b"\r\nabc"], ask, end=True) == (Answer(200, "OK", b"abc"), False)


def test_who_says_that_he_will_close_is_not_asked_again() -> None:
    async def ask(connection: Line) -> bool:
        await once(connection)
        return connection.usable

    assert talk([b"HTTP/1.0 404 \r\ncontent-length: 0\r\n\r\n"], ask) is False
    assert talk([OK + b"connection: close\r\ncontent-length: 0\r\n\r\n"], ask) is False


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        OK + b"content-length: 3\r\n\r\nab",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_what_is_no_answer_or_breaks_off_is_an_error(answer: bytes) -> None:
    with pytest.raises((AnswerError, OSError)):
        talk([answer], once, end=True)


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_ANSWER", 10)
    with pytest.raises(AnswerError, match="more than 10 bytes"):
        talk([OK + b"\r\n" + b"x" * 11], once)


def test_a_question_that_is_given_up_leaves_no_usable_connection() -> None:
    async def ask(connection: Line) -> bool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await once(connection)
        return connection.usable

    assert talk([OK + b"content-length: 3\r\n\r\nab"], ask) is False
