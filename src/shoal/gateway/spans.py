"""A span for each sampled request, exported by OTLP from a thread of the worker's own.

This needs OpenTelemetry's SDK (``pip install 'shoal[tracing]'``) and is imported only where spans are wanted. A span
begins where the request does, so that its engine gets it as the parent (``traceparent``), and is filled when the
request has ended, out of what is remembered of it anyway (`shoal.gateway.trace`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import shoal
from shoal.gateway.fields import without

if TYPE_CHECKING:
    from shoal.gateway.messages import WorkerSettings
    from shoal.gateway.request import Request
    from shoal.gateway.trace import Explained
    from shoal.gateway.usage import Usage

_FIELDS = (b"traceparent", b"tracestate")
_TIMEOUT = 2  # s that the collector may take for a batch: a worker that ends waits for its last one
_PARENT = frozenset(_FIELDS[:1])
# gen_ai.operation.name by the end of the path (semantic conventions for generative AI)
_OPERATIONS = {
    "/chat/completions": "chat",
    "/messages": "chat",
    "/responses": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
}


class Spans:
    """Makes the spans of a worker.

    Args:
        settings: the worker's.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        resource = Resource.create(
            {
                "service.name": settings.trace_service,
                "service.version": shoal.__version__,
                "service.instance.id": f"{settings.node}/{settings.index}",
            }
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_sample)), resource=resource
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.trace_endpoint, timeout=_TIMEOUT))
        )
        self._tracer = self._provider.get_tracer("shoal.gateway", shoal.__version__)
        self._context = TraceContextTextMapPropagator()

    def begin(self, request: Request) -> Span | None:
        """Return the span of a request if it is sampled; its head then names it as the parent of what its engine does.

        The head of any other request goes on as it came.
        """
        carrier = {
            name.decode(): value.decode("latin-1") for name in _FIELDS if (value := request.header(name))
        }
        path = request.target.partition(b"?")[0].decode("latin-1")
        operation = next((o for end, o in _OPERATIONS.items() if path.endswith(end)), "")
        span = self._tracer.start_span(
            operation or f"{request.method.decode('latin-1')} {path}",
            context=self._context.extract(carrier),
            kind=SpanKind.SERVER,
        )
        if not isinstance(span, Span) or not span.is_recording():
            return None
        context = span.get_span_context()
        assert context is not None
        line = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        request.head = without(request.head, _PARENT) + b"\r\ntraceparent: " + line.encode()
        if operation:
            span.set_attribute("gen_ai.operation.name", operation)
        return span

    def end(self, span: Span, told: Explained, usage: Usage | None = None) -> None:
        """Fill and end a span; `usage` is what the request has taken, None where the gateway does not know it."""
        began = span.start_time or 0
        attributes: dict[str, Any] = {
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": told.model,
            "http.request.method": told.method,
            "url.path": told.path,
            "http.response.status_code": told.status,
            "shoal.request.id": told.id,
            "shoal.engine": told.engine,
            "shoal.attempts": told.attempts,
            "shoal.queue.seconds": told.queued,
            "shoal.stream": told.stream,
        }
        if told.answer_id:
            attributes["gen_ai.response.id"] = told.answer_id
        if told.first:
            attributes["gen_ai.response.time_to_first_chunk"] = told.first
        if usage is not None:
            attributes["gen_ai.usage.input_tokens"] = usage.prompt
            attributes["gen_ai.usage.output_tokens"] = usage.completion
        if told.key:
            attributes["shoal.key"] = told.key
        span.set_attributes(attributes)
        for step in told.steps:
            more: dict[str, Any] = {"shoal.engine": step.engine} if step.engine else {}
            for name in ("text", "policy", "tokens", "seconds"):
                if value := getattr(step, name):
                    more[f"shoal.{name}"] = value
            if step.candidates:
                more["shoal.candidates"] = [str(row["engine"]) for row in step.candidates]
            span.add_event(f"shoal.{step.what}", more, timestamp=began + int(step.at * 1e9))
        if told.status >= 500:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", str(told.status))
        span.end(began + int(told.seconds * 1e9))

    def close(self) -> None:
        """Send what has not gone yet. Waits for that, so it belongs at the end of a worker's life."""
        self._provider.shutdown()
