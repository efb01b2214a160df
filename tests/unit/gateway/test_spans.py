"""Spans as a collector gets them: over OTLP/HTTP, decoded with OpenTelemetry's own protobuf messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from shoal.gateway.keys import KeyTable
from support.keys import bearer, key

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = b'"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}'
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """A small OTLP/HTTP receiver."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.headers["content-type"] == "application/x-protobuf"
                assert self.path == "/v1/traces"
                outer.requests.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> list[Any]:
        return [
            s for r in self.requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def attributes(of: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in of.attributes}


async def test_a_span_per_request_with_picks_and_retries_and_its_engine_as_a_child(stage, collector):
    async def reset(connection, _):
        connection.reset()

    engine = await stage.engine()
    await stage.open(await stage.engine(reset), engine, trace_sample=1.0, trace_endpoint=collector.url)
    replies = [await stage.request(stage.post()) for _ in range(2)]
    assert all(reply.status == 200 for reply in replies)
    stage.gateway.traces.close()
    spans = collector.spans()
    assert len(spans) == 2
    (retried,) = [s for s in spans if len(s.events) > 1]
    assert [e.name for e in retried.events] == ["shoal.picked", "shoal.failed", "shoal.picked"]
    told = attributes(retried)
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("chat", "m")
    assert (told["http.response.status_code"], told["shoal.attempts"]) == (200, 2)
    (resource,) = {r.resource_spans[0].resource.SerializeToString() for r in collector.requests}
    assert b"shoal" in resource
    for span in spans:
        assert span.end_time_unix_nano > span.start_time_unix_nano
        times = [event.time_unix_nano for event in span.events]
        assert times == sorted(times)
    sent = {seen.header(b"traceparent").decode() for seen in engine.seen}
    # The last two digits are flags: newer SDKs say of their ids that they are random, too.
    assert {line[:-2] for line in sent} == {f"00-{s.trace_id.hex()}-{s.span_id.hex()}-" for s in spans}
    assert all(int(line[-2:], 16) & 1 for line in sent)


async def test_an_engine_that_gets_heads_of_its_own_is_a_child_however_well_these_are_known(stage, collector):
    engine = await stage.engine()
    table = stage.table({"m": stage.route(engine, host_header="h")})
    await stage.open(table=table, trace_sample=1.0, trace_endpoint=collector.url)
    for _ in range(4):
        assert (await stage.request(stage.post())).status == 200
    stage.gateway.traces.close()
    sent = {seen.header(b"traceparent").decode()[:-2] for seen in engine.seen}
    assert sent == {f"00-{s.trace_id.hex()}-{s.span_id.hex()}-" for s in collector.spans()}
    assert len(sent) == 4


async def test_a_sampled_trace_of_the_client_goes_on_whatever_the_share(stage, collector):
    engine = await stage.engine()
    await stage.open(engine, trace_sample=1e-12, trace_endpoint=collector.url)
    await stage.request(stage.post(extra=f"traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=b\r\n"))
    await stage.request(stage.post(extra=f"Traceparent:  00-{TRACE}-{PARENT}-00\r\n"))
    await stage.request(stage.post())
    stage.gateway.traces.close()
    (span,) = collector.spans()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    first, second, third = engine.seen
    assert first.header(b"traceparent").decode() == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert first.header(b"tracestate") == b"a=b"
    assert b"Traceparent:  00-" in second.head, "not sampled: as it came"
    assert third.header(b"traceparent") is None
    assert len(stage.gateway.traces._kept) == 1


def chunked(*events: bytes) -> bytes:
    return STREAM + b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in events) + b"0\r\n\r\n"


async def test_a_span_has_the_usage_where_the_gateway_knows_it(stage, collector):
    choice = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    stream = chunked(choice, b'data: {"id":"c","choices":[],%b}\n\n' % USAGE, b"data: [DONE]\n\n")
    body = b'{"id":"c","choices":[],%b}' % USAGE
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    engines = {"whole": await stage.engine(whole + body), "stream": await stage.engine(stream)}
    table = stage.table({name: stage.route(engine) for name, engine in engines.items()})

    async def used(kind: str, extra: str = "") -> tuple[int, int] | None:
        more = b',"stream":true,"stream_options":{"include_usage":true}' if kind == "stream" else b""
        data = stage.post(b'{"model":"%b"%b}' % (kind.encode(), more), extra=extra)
        assert (await stage.request(data)).status == 200
        stage.gateway.traces.spans._provider.force_flush()
        told = attributes(collector.spans()[-1])
        if "gen_ai.usage.input_tokens" not in told:
            return None
        return told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]

    await stage.open(table=table, trace_sample=1.0, trace_endpoint=collector.url)
    assert await used("whole") is None, "it passes through unread"
    assert await used("stream") == (7, 5), "its client has asked for it"
    keys = KeyTable(keys=(key("anna"),))
    await stage.open(table=table, keys=keys, trace_sample=1.0, trace_endpoint=collector.url)
    for kind in engines:
        assert await used(kind, bearer("anna")) == (7, 5)


async def test_without_tracing_the_context_goes_on_byte_for_byte(stage):
    engine = await stage.engine()
    await stage.open(engine)
    assert stage.gateway.traces.spans is None
    await stage.request(stage.post(extra=f"TraceParent:   00-{TRACE}-{PARENT}-01\r\n"))
    assert f"TraceParent:   00-{TRACE}-{PARENT}-01\r\n".encode() in engine.seen[0].head


async def test_without_opentelemetry_the_gateway_serves_and_says_so(stage, monkeypatch):
    import sys  # noqa: PLC0415

    monkeypatch.delitem(sys.modules, "shoal.gateway.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    await stage.open(await stage.engine(), trace_sample=1.0)
    assert (await stage.request(stage.post())).status == 200
    (notice,) = stage.faults
    assert "pip install 'shoal[tracing]'" in notice.text
