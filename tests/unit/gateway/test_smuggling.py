"""Request smuggling: whatever hides a second request is refused, and no byte of it reaches an engine.

The cases are those of the published corpora (CL.TE, TE.CL, TE.TE and their disguises; RFC 9112, section 11.2). Each is
one request that somebody else in the chain might take for two, with a second request inside or behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

LINE = b"POST /v1/completions HTTP/1.1\r\n"
HEAD = LINE + b"Host: g\r\n"
BODY = b'{"model":"m"}'
SECOND = (
    b'POST /v1/completions HTTP/1.1\r\nHost: SMUGGLED\r\nContent-Length: 22\r\n\r\n{"prompt": "SMUGGLED"}'
)
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
LAST = b"0\r\n\r\n"
LENGTH = b"Content-Length: %d" % len(BODY)
CODING = b"Transfer-Encoding: chunked"
CONTROLS = [*range(9), 11, 12, *range(14, 32), 127]  # all but tab, line feed and carriage return

Case = tuple[str, bytes]


def with_fields(*fields: bytes, body: bytes = CHUNK + LAST) -> bytes:
    return HEAD + b"\r\n".join(fields) + b"\r\n\r\n" + body + SECOND


def both_framings() -> Iterator[Case]:
    for case in (bytes, bytes.lower, bytes.upper, bytes.title):
        yield f"CL.TE {case.__name__}", with_fields(case(LENGTH), case(CODING))
        yield f"TE.CL {case.__name__}", with_fields(case(CODING), case(LENGTH), body=BODY)
    yield (
        "CL.TE, the length covers the second",
        with_fields(b"Content-Length: %d" % len(LAST + SECOND), CODING, body=LAST),
    )
    yield (
        "TE.CL, a chunk covers the second",
        HEAD + b"Content-Length: 4\r\n" + CODING + b"\r\n\r\n%x\r\n" % len(SECOND) + SECOND + b"\r\n" + LAST,
    )
    yield (
        "CL.0 with TE on GET",
        b"GET /v1/models HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n"
        + CODING
        + (b"\r\n\r\n" + LAST + SECOND),
    )
    yield "TE on HTTP/1.0", b"POST / HTTP/1.0\r\nHost: g\r\n" + CODING + b"\r\n\r\n" + CHUNK + LAST + SECOND
    yield (
        "TE and CL on HTTP/1.0",
        (b"POST / HTTP/1.0\r\n" + LENGTH + b"\r\n" + CODING + b"\r\n\r\n" + BODY + SECOND),
    )


def two_codings() -> Iterator[Case]:
    for other in (b"chunked", b"identity", b"gzip", b"cow", b"x", b"", b"chunked, identity", b"\x0bchunked"):
        yield f"TE.TE chunked, {other!r}", with_fields(CODING, b"Transfer-Encoding: %b" % other)
        yield f"TE.TE {other!r}, chunked", with_fields(b"Transfer-Encoding: %b" % other, CODING)
        yield f"TE.TE {other!r}, other case", with_fields(CODING, b"tRANSFER-eNCODING: %b" % other)


def disguised_codings() -> Iterator[Case]:
    for field in (
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t: chunked",
        b"Transfer-Encoding\x00: chunked",
        b"Transfer-Encoding\x0b: chunked",
        b"Transfer Encoding: chunked",
        b" Transfer-Encoding: chunked",
        b"\tTransfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: 'chunked'",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding: chunked\x00",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding:\x0cchunked",
        b"Transfer-Encoding: ch\xc3\xbcnked",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding: \r\n\tchunked",
        b"Transfer-Encoding:\n chunked",
        b"Transfer-Encoding: chunked\r X: y",
        b"X: y\nTransfer-Encoding: chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b"X: y\r\r\nTransfer-Encoding: chunked",
        b"X\r\n Transfer-Encoding: chunked",
        b"X:\x00\r\nTransfer-Encoding: chunked",
    ):
        yield f"beside a length: {field!r}", with_fields(LENGTH, field, body=BODY)
        yield f"before a length: {field!r}", with_fields(field, LENGTH)


def lengths() -> Iterator[Case]:
    for first, second in ((b"13", b"13"), (b"13", b"0"), (b"0", b"13"), (b"13", b"97"), (b"013", b"13")):
        fields = b"Content-Length: %b" % first, b"Content-Length: %b" % second
        yield f"lengths {first!r} and {second!r}", with_fields(*fields, body=BODY)
        yield (
            f"lengths {first!r} and {second!r}, other case",
            with_fields(fields[0], fields[1].upper(), body=BODY),
        )
    for value in (
        *(b"13, 13", b"13,13", b"13,", b"+13", b"-0", b"-13", b"0x0d", b"1 3", b"13 0", b"13;", b"1_3"),
        *(
            b"13\x00",
            b"\x0013",
            b"\x0b13",
            b"13\x0c",
            b"\xb2",
            b"",
            b" ",
            b"13.0",
            b"1e1",
            b"'13'",
            b"13\r 0",
        ),
        *(b"13\n", b"\r\n 13", b"13\r\n 0", b"18446744073709551629", b"4294967309" * 3, b"9" * 400),
    ):
        yield f"length {value!r}", with_fields(b"Content-Length: %b" % value, body=BODY)
    for name in (b"Content-Length ", b"Content-Length\t", b" Content-Length", b"Content-Length\x00"):
        yield f"length by {name!r}", with_fields(name + b": 13", body=BODY)


def line_ends() -> Iterator[Case]:
    yield (
        "bare LF everywhere",
        (LINE + b"Host: g\r\n" + LENGTH + b"\r\n\r\n").replace(b"\r\n", b"\n") + (BODY + SECOND),
    )
    yield (
        "bare LF behind the request line",
        LINE[:-2] + b"\nHost: g\r\n" + LENGTH + b"\r\n\r\n" + BODY + SECOND,
    )
    yield "bare LF ends the head", HEAD + LENGTH + b"\r\n\n" + BODY + SECOND
    yield "LF LF ends the head", HEAD + LENGTH + b"\n\n" + BODY + SECOND
    yield "bare CR ends a field", HEAD + b"X: y\r" + LENGTH + b"\r\n\r\n" + BODY + SECOND
    yield "CR CR LF ends the head", HEAD + LENGTH + b"\r\n\r\r\n" + BODY + SECOND
    yield "a request in a value, bare LF", HEAD + b"X: y\n\n" + SECOND + b"\r\n\r\n"
    yield "a request in a value, bare CR", HEAD + b"X: y\r\r" + SECOND
    yield "a request in the target", b"POST /\n\n" + SECOND
    for fold in (b" ", b"\t", b"  "):
        yield f"obs-fold {fold!r}", with_fields(LENGTH, b"X: y\r\n" + fold + b"z", body=BODY)
        yield f"obs-fold {fold!r} of the length", with_fields(LENGTH + b"\r\n" + fold + b"0", body=BODY)
        yield f"obs-fold {fold!r} first", LINE + fold + b"Host: g\r\n" + LENGTH + b"\r\n\r\n" + BODY + SECOND


def control_bytes() -> Iterator[Case]:
    for code in CONTROLS:
        byte = bytes([code])
        yield f"byte {code} in a value", with_fields(LENGTH, b"X: a" + byte + b"b", body=BODY)
        yield f"byte {code} in a name", with_fields(LENGTH, b"X" + byte + b"Y: a", body=BODY)
        yield f"byte {code} behind the length", with_fields(LENGTH + byte, body=BODY)
        yield f"byte {code} behind the coding", with_fields(CODING + byte)
        yield f"byte {code} in a chunk size", with_fields(CODING, body=b"d" + byte + CHUNK[1:] + LAST)
        yield f"byte {code} in a chunk extension", with_fields(CODING, body=b"d;" + byte + CHUNK[1:] + LAST)


def chunks() -> Iterator[Case]:
    for size in (
        *(
            b"0x0d",
            b"+d",
            b"-d",
            b" d",
            b"d ",
            b"d\t",
            b"",
            b"g",
            b"d_",
            b"d.0",
            b"d,",
            b"\xb2",
            b"d\r",
            b"\nd",
        ),
        *(b"1000000000000000d", b"f" * 17, b"f" * 400, b"1" + b"0" * 16 + b"d"),
    ):
        yield f"chunk size {size[:20]!r}", with_fields(CODING, body=size + b"\r\n" + BODY + b"\r\n" + LAST)
    for size in (
        b"ffffffff0",
        b"7fffffffffffffff",
        b"f" * 16,
    ):  # possible, so refused when too much of it has come
        yield f"huge chunk {size!r}", with_fields(CODING, body=size + b"\r\n" + SECOND * 200)
    for name, body in {
        "bare LF behind a size": b"d\n" + BODY + b"\r\n" + LAST,
        "bare CR behind a size": b"d\r" + BODY + b"\r\n" + LAST,
        "bare LF behind the data": b"d\r\n" + BODY + b"\n" + LAST,
        "nothing behind the data": b"d\r\n" + BODY + LAST,
        "two bytes behind the data": b"d\r\n" + BODY + b"XX" + LAST,
        "size too small": b"c\r\n" + BODY + b"\r\n" + LAST,
        "bare LF behind the last size": b"d\r\n" + BODY + b"\r\n0\n\r\n",
        "bare LF at the end": CHUNK + b"0\r\n\n",
        "only LF at the end": CHUNK + b"0\n\n",
        "length in the trailers": CHUNK + b"0\r\nContent-Length: 5\r\n\r\n",
        "coding in the trailers": CHUNK + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "folded trailer": CHUNK + b"0\r\nx: y\r\n z\r\n\r\n",
        "NUL in the trailers": CHUNK + b"0\r\nx: \x00\r\n\r\n",
        "LF in an extension": b"d;a\nb\r\n" + BODY + b"\r\n" + LAST,
        "CR in an extension": b"d;a\rb\r\n" + BODY + b"\r\n" + LAST,
        "LF in a quoted extension": b'd;a="\n"\r\n' + BODY + b"\r\n" + LAST,
    }.items():
        yield f"chunks: {name}", with_fields(CODING, body=body)


def hosts_and_lines() -> Iterator[Case]:
    yield "two hosts", with_fields(b"Host: h", LENGTH, body=BODY)
    yield "host with a space before the colon", LINE + b"Host : g\r\n" + LENGTH + b"\r\n\r\n" + BODY + SECOND
    yield "length before the first field", LINE + b" " + LENGTH + b"\r\nHost: g\r\n\r\n" + BODY + SECOND
    yield "HTTP/0.9 in front", b"GET /v1/models\r\n" + SECOND
    yield "version 1.2", LINE.replace(b"1.1", b"1.2") + b"Host: g\r\n" + LENGTH + b"\r\n\r\n" + BODY + SECOND
    yield (
        "upgrade with a body left behind",
        (b"CONNECT g:80 HTTP/1.1\r\nHost: g\r\n" + LENGTH + b"\r\n\r\n" + BODY + SECOND),
    )


EVERY = [
    *both_framings(),
    *two_codings(),
    *disguised_codings(),
    *lengths(),
    *line_ends(),
    *control_bytes(),
    *chunks(),
    *hosts_and_lines(),
]
CASES = {data: name for name, data in EVERY}


def test_the_smuggling_corpus_is_large():
    assert len(CASES) > 300


@pytest.mark.parametrize("pieces", ["whole", "cut in front of the body", "byte by byte"])
async def test_no_byte_of_a_smuggled_request_reaches_an_engine(stage, pieces):
    received = bytearray()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            received.extend(data)
            writer.write(stage.OK)
        writer.close()

    upstream = await asyncio.start_server(record, "127.0.0.1", 0)
    engine = await stage.dead_engine()
    engine.port = upstream.sockets[0].getsockname()[1]
    await stage.open(engine, max_body=10_000)
    problems = []
    for data, name in CASES.items():
        client = await stage.client()
        try:
            if pieces == "byte by byte" and len(data) < 600:
                for byte in data[:-1]:
                    client.writer.write(bytes([byte]))
                    await asyncio.sleep(0)
            elif pieces != "whole":
                head = data.find(b"\r\n\r\n") + 4
                client.writer.write(data[:head])
                await asyncio.sleep(0)
                client.writer.write(data[head:])
            else:
                client.writer.write(data)
            reply = await asyncio.wait_for(client.reply(), 5)
            behind = await asyncio.wait_for(client.reader.read(), 5)
            refused = 400 <= reply.status < 600 and reply.header("connection") == "close"
            if not refused or behind:
                problems.append(f"{name}: {reply.raw!r}, then {behind!r}")
            assert reply.error
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            problems.append(f"{name}: {error!r}")
        client.close()
    upstream.close()
    assert problems == []
    assert bytes(received) == b"", "nothing of a request that is refused reaches an engine"
    assert stage.open_requests() == 0


async def test_what_looks_like_smuggling_but_is_a_body_goes_through_as_one(stage):
    engine = await stage.engine()
    await stage.open(engine)
    body = b'{"model":"m","prompt":"' + SECOND.replace(b'"', b"'").replace(b"\r\n", b"\\r\\n") + b'"}'
    assert (await stage.request(stage.post(body))).status == 200
    chunked = HEAD + CODING + b"\r\n\r\n%x\r\n%b\r\n" % (len(body), body) + LAST
    assert (await stage.request(chunked)).status == 200
    assert [seen.body for seen in engine.seen] == [body, body]
    assert engine.seen[1].header(b"transfer-encoding") is None
