"""Three hundred and more malformed requests: each gets a clear error or a clean end, and nothing else is affected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from shoal.gateway.messages import WorkerSettings
from shoal.gateway.reader import RequestReader

LINE = b"POST /v1/completions HTTP/1.1\r\n"
HEAD = LINE + b"Host: g\r\n"
BODY = b'{"model":"m"}'
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

CONTROLS = [*range(9), 11, 12, *range(14, 32), 127]  # all but tab, line feed and carriage return
SEPARATORS = b'"(),/;<=>?@[\\]{} \t'

Case = tuple[str, bytes, set[int]]


def request_lines() -> Iterator[Case]:
    lines = {
        "lower-case method": b"post / HTTP/1.1",
        "unknown method": b"BREW /pot HTTP/1.1",
        "no target": b"GET HTTP/1.1",
        "empty target": b"GET  HTTP/1.1",
        "two spaces before the target": b"GET  /v1/models HTTP/1.1",
        "two spaces after the target": b"GET /v1/models  HTTP/1.1",
        "space in the target": b"GET /v1/mo dels HTTP/1.1",
        "tab for a space": b"GET\t/v1/models HTTP/1.1",
        "leading space": b" GET /v1/models HTTP/1.1",
        "trailing space": b"GET /v1/models HTTP/1.1 ",
        "relative target": b"GET v1/models HTTP/1.1",
        "other scheme": b"GET ftp://g/v1/models HTTP/1.1",
        "no authority": b"GET http:///v1/models HTTP/1.1",
        "user in the authority": b"GET http://u@g/v1/models HTTP/1.1",
        "asterisk with GET": b"GET * HTTP/1.1",
        "no protocol": b"GET /v1/models 1.1",
        "other protocol": b"GET /v1/models RTSP/1.0",
        "lower-case protocol": b"GET /v1/models http/1.1",
        "no version": b"GET /v1/models HTTP/",
        "version without a dot": b"GET /v1/models HTTP/11",
        "version with a comma": b"GET /v1/models HTTP/1,1",
        "long version": b"GET /v1/models HTTP/1.10",
        "words behind": b"GET /v1/models HTTP/1.1 now",
        "only a method": b"GET",
        "colon": b":",
        "header for a start": b"Host: g",
    }
    for name, line in lines.items():
        yield name, line + b"\r\nHost: g\r\n\r\n", {400, 505}
    yield "HTTP/0.9", b"GET /v1/models\r\n\r\n", {400, 505}
    yield "CONNECT", b"CONNECT g:443 HTTP/1.1\r\nHost: g\r\n\r\n", {501}
    for version in (b"0.9", b"1.2", b"1.9", b"2.0", b"3.0", b"9.9"):
        yield f"version {version.decode()}", b"GET /v1/models HTTP/%b\r\nHost: g\r\n\r\n" % version, {505}
    yield "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {505}
    for code in [*CONTROLS, 9, 128, 255]:
        yield f"byte {code} in the target", b"GET /v1/mo%cdels HTTP/1.1\r\nHost: g\r\n\r\n" % code, {400}
        yield f"byte {code} in the method", b"G%cT /v1/models HTTP/1.1\r\nHost: g\r\n\r\n" % code, {400}
    yield "long target", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: g\r\n\r\n", {414}
    yield "endless target", b"GET /" + b"a" * 100_000, {414}
    yield "endless method", b"G" * 100_000, {400}


def header_fields() -> Iterator[Case]:
    for code in CONTROLS:
        yield f"byte {code} in a value", HEAD + b"X: a%cb\r\n\r\n" % code, {400}
        yield f"byte {code} in a name", HEAD + b"X%cY: a\r\n\r\n" % code, {400}
        yield f"byte {code} at the end of a value", HEAD + b"X: a%c\r\n\r\n" % code, {400}
    for code in [*SEPARATORS, 128, 255]:
        yield f"byte {code} in a name", HEAD + b"X%cY: a\r\n\r\n" % code, {400}
    fields = {
        "no colon": b"Nothing",
        "no name": b": value",
        "space before the colon": b"X : a",
        "tab before the colon": b"X\t: a",
        "folded with a space": b"X: a\r\n b",
        "folded with a tab": b"X: a\r\n\tb",
        "bare carriage return": b"X: a\rY: b",
        "bare line feed": b"X: a\nY: b",
        "two carriage returns": b"X: a\r\r",
        "folded before a name": b"X:\r\n Y: b",
        "second Host": b"Host: h",
        "second Host, same": b"Host: g",
        "second Host, other case": b"hOST: g",
        "expectation": b"Expect: 200-ok",
        "two expectations": b"Expect: 100-continue, 200-ok",
    }
    for name, field in fields.items():
        yield name, HEAD + field + b"\r\n\r\n", {417} if "expectation" in name else {400}
    yield "first field is folded", LINE + b" Host: g\r\n\r\n", {400}
    yield "no Host", LINE + b"\r\n", {400}
    yield "bare line feeds everywhere", b"GET /v1/models HTTP/1.1\nHost: g\n\n", {400}
    yield "bare line feed at the end", HEAD[:-2] + b"\n\n", {400}
    for host in (
        b"a b",
        b"a/b",
        b"a?b",
        b"a#b",
        b"u@h",
        b"h:x",
        b"h:123456",
        b"[::1",
        b"h:1:2",
        b"a,b c",
        b"<h>",
        b"h\\",
    ):
        yield f"Host {host.decode()}", LINE + b"Host: %b\r\n\r\n" % host, {400}
    yield "long value", HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n", {431}
    yield "endless value", HEAD + b"X: " + b"a" * 200_000, {431}
    yield "endless name", HEAD + b"X" * 200_000, {431}
    yield "many fields", HEAD + b"X: a\r\n" * 20_000 + b"\r\n", {431}
    yield "endless fields", HEAD + b"X: a\r\n" * 40_000, {431}


def framings() -> Iterator[Case]:
    for value in (
        *(
            b"",
            b" ",
            b"x",
            b"-1",
            b"+13",
            b"0x0d",
            b"13,",
            b"13, 13",
            b"13 13",
            b"13.0",
            b"1e1",
            b"1_3",
            b"13;",
            b"'13'",
        ),
        *(b"99999999999999999999", b"18446744073709551616", b"9" * 200, b"\xb2", b"\xd9\xa1", b"\x0b13"),
    ):
        yield f"Content-Length {value!r}", HEAD + b"Content-Length: %b\r\n\r\n" % value + BODY, {400}
    for first, second in ((b"13", b"13"), (b"13", b"14"), (b"14", b"13"), (b"0", b"13"), (b"13", b"0")):
        lengths = b"Content-Length: %b\r\nContent-Length: %b\r\n\r\n" % (first, second)
        yield f"Content-Length {first!r} and {second!r}", HEAD + lengths + BODY, {400}
        yield f"content-length {first!r} and {second!r}", HEAD + lengths.lower() + BODY, {400}
    both = (b"Content-Length: 13", b"Transfer-Encoding: chunked")
    for name, fields in {"CL.TE": both, "TE.CL": both[::-1]}.items():
        for case in (bytes, bytes.lower, bytes.upper):
            joined = case(b"\r\n".join(fields))
            yield f"{name} {case.__name__}", HEAD + joined + b"\r\n\r\n" + BODY, {400}
    yield "CL.TE on GET", b"GET / HTTP/1.1\r\nHost: g\r\n" + b"\r\n".join(both) + b"\r\n\r\n0\r\n\r\n", {400}
    for coding in (
        *(
            b"gzip",
            b"gzip, chunked",
            b"identity",
            b"xchunked",
            b"chunked;q=1",
            b'"chunked"',
            b"chunk",
            b"chunkedx",
        ),
        *(
            b"chunked, gzip",
            b"chunked, chunked",
            b"chunked,",
            b",chunked",
            b"",
            b"chun ked",
            b"chunked\tx",
            b"c\xa8hunked",
        ),
    ):
        fields = b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding
        yield f"Transfer-Encoding {coding!r}", HEAD + fields, {400, 501}
    for name in (
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t: chunked",
        b" Transfer-Encoding: chunked",
    ):
        yield f"hidden {name!r}", HEAD + name + b"\r\nContent-Length: 13\r\n\r\n" + BODY, {400}
    twice = b"Transfer-Encoding: chunked\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n"
    for coding in (b"chunked", b"identity", b"gzip", b"x"):
        yield f"TE.TE {coding!r}", HEAD + twice % coding, {400, 501}
    yield "TE on HTTP/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}
    yield "declared body too large", HEAD + b"Content-Length: 99999999999\r\n\r\n", {413}


def chunks() -> Iterator[Case]:
    for size in (
        *(
            b"",
            b"x",
            b"0x5",
            b"+5",
            b"-5",
            b" 5",
            b"5 ",
            b"5\t",
            b"5 ;a",
            b"5;",
            b"5;\x01",
            b"5;a\x00b",
            b'5;a="',
            b"5,5",
        ),
        *(
            b"5_0",
            b"5.0",
            b"\xb2",
            b"g",
            b"f" * 17,
            b"f" * 100,
            b"1" + b"0" * 16,
            b"5\r",
            b"\n5",
            b"5;a=\x7f",
        ),
    ):
        yield f"chunk size {size[:20]!r}", CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n", {400}
    for name, data in {
        "bare line feed after the size": b"5\nhello\r\n0\r\n\r\n",
        "bare line feed after the data": b"5\r\nhello\n0\r\n\r\n",
        "bare carriage return after the size": b"5\rhello\r\n0\r\n\r\n",
        "no line end after the data": b"5\r\nhello0\r\n\r\n",
        "data longer than its size": b"5\r\nhello world\r\n0\r\n\r\n",
        "bare line feed at the end": b"0\n\n",
        "bare line feed after the last size": b"0\n\r\n",
        "bare line feed after the trailers": b"0\r\nx: y\n\r\n",
        "folded trailer": b"0\r\nx: y\r\n z\r\n\r\n",
        "trailer without a colon": b"0\r\nxy\r\n\r\n",
        "trailer with a space before the colon": b"0\r\nx : y\r\n\r\n",
        "NUL in a trailer": b"0\r\nx: \x00\r\n\r\n",
        "Content-Length for a trailer": b"0\r\ncontent-length: 5\r\n\r\n",
        "endless extension": b"5;" + b"a" * 200_000,
        "endless trailers": b"0\r\n" + b"x: y\r\n" * 40_000,
    }.items():
        yield name, CHUNKED + data, {400}
    yield "chunks too large", CHUNKED + b"2800\r\n" + b"x" * 0x2800 + b"\r\n", {413}
    yield "huge chunk", CHUNKED + b"fffffff\r\n" + b"x" * 20_000, {413}


def other_protocols() -> Iterator[Case]:
    for name, data in {
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "SMTP": b"EHLO example.com\r\n",
        "Redis": b"*1\r\n$4\r\nPING\r\n",
        "JSON": b'{"model":"m"}\r\n\r\n',
        "SOCKS": b"\x05\x01\x00",
        "zeros": bytes(1000),
        "all bytes": bytes(range(256)),
        "PROXY protocol": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nGET / HTTP/1.1\r\nHost: g\r\n\r\n",
    }.items():
        yield name, data, {400}


CASES: list[Case] = [*request_lines(), *header_fields(), *framings(), *chunks(), *other_protocols()]


def test_there_are_enough_of_them():
    assert len({data for _, data, _ in CASES}) >= 300


async def test_each_gets_a_clear_error_and_nothing_else_is_affected(stage):
    engine = await stage.engine()
    await stage.open(engine, max_body=10_000)
    healthy = await stage.client()
    problems: list[str] = []
    for number, (name, data, statuses) in enumerate(CASES):
        client = await stage.client()
        client.writer.write(data)
        try:
            reply = await asyncio.wait_for(client.reply(), 5)
            ended = await asyncio.wait_for(client.at_end(), 5)
            fine = (
                reply.status in statuses and reply.header("connection") == "close" and reply.error["message"]
            )
            if not fine or not ended:
                problems.append(f"{name}: {reply.raw!r}, ended: {ended}")
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, json.JSONDecodeError) as error:
            problems.append(f"{name}: {error!r}")
        client.close()
        if number % 10 == 0:
            assert (await healthy.request(stage.post())).status == 200
    assert problems == []
    assert all(seen.body == BODY for seen in engine.seen), "nothing malformed has reached the engine"
    assert stage.metrics.totals().bad_requests == len(CASES)
    assert stage.open_requests() == 0


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_each_is_refused_in_whatever_pieces_it_comes(size):
    settings = WorkerSettings(
        index=0, workers=1, node="n", host="", port=1, control_socket="", max_body=10_000
    )
    for name, data, statuses in CASES:
        if size < 1000 and len(data) > 1000:
            continue
        reader = RequestReader(settings)
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
        assert reader.refusal is not None, name
        assert reader.refusal.status in statuses, name
        assert reader.ended
        assert not reader.requests, name
