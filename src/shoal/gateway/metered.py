"""Requests with an API key: admitted within its limits, and counted by the usage that the engine names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shoal.gateway.access import Access
from shoal.gateway.exchange import Exchange
from shoal.gateway.fields import without
from shoal.gateway.heads import KnownHead
from shoal.gateway.stream import StreamExchange
from shoal.gateway.upstream import Framing, ResponseHead
from shoal.gateway.usage import BodyWatch, Usage, last_usage

if TYPE_CHECKING:
    from shoal.gateway.client import ClientConnection
    from shoal.gateway.context import Gateway, Route
    from shoal.gateway.keys import Key
    from shoal.gateway.request import Request
    from shoal.gateway.responses import Answer

_CHUNKED = Framing.CHUNKED
_BYTES_PER_TOKEN = 4  # about: of a prompt whose length no engine has told
_ENCODING = frozenset((b"accept-encoding",))
_FIELDS = frozenset(
    f"x-ratelimit-{what}-{of}".encode()
    for what in ("limit", "remaining", "reset")
    for of in ("requests", "tokens")
)


class Meter:
    """What is known of one request with a key.

    Args:
        access: admitted it.
        key: its key.
        model: what it is counted under.

    Attributes:
        lines: header lines about the key's limits.
        body: looks for the usage in an answer that is no stream.
        ended: the answer is complete.
    """

    __slots__ = ("_access", "_key", "_model", "body", "ended", "lines")

    def __init__(self, access: Access, key: Key, model: str) -> None:
        self._access = access
        self._key: Key | None = key
        self._model = model
        self.lines = access.limiter.header_lines(key)
        self.body: BodyWatch | None = None
        self.ended = False

    def settle(self, usage: Usage | None) -> None:
        """Count the request and what it has taken; the first time counts."""
        key, self._key = self._key, None
        if key is not None:
            self._access.leave(key, self._model, usage)


class _Metered(Exchange):
    """What an exchange of either kind does for its meter."""

    __slots__ = ()

    meter: Meter

    def on_head(self, head: ResponseHead, first: bytes) -> None:
        """Say how much of the limits is left, and look for the usage from here on."""
        meter = self.meter
        meter.body = None
        told = head
        if meter.lines:
            text = head.head
            if b"x-ratelimit-" in text.lower():  # an external engine has limits of its own, for us
                text = without(text, _FIELDS)
            told = msgspec.structs.replace(head, head=b"\r\n".join((text, *meter.lines)))
        super().on_head(told, first)
        if head.status == 200 and not (self.request.stream and head.events):
            meter.body = BodyWatch(head.framing is _CHUNKED)
            meter.body.see(first)

    def on_body(self, data: bytes) -> None:
        """Look at what passes."""
        if self.meter.body is not None:
            self.meter.body.see(data)
        super().on_body(data)

    def on_known(self, known: KnownHead, digits: bytes, body: bytes) -> None:
        """Send a whole response, and count what it says it has taken."""
        super().on_known(known, digits, body)
        self.meter.settle(last_usage(body))

    def on_end(self) -> None:
        """The response is complete."""
        self.meter.ended = True
        super().on_end()

    def _usage(self) -> Usage | None:
        return self.meter.body.usage if self.meter.body is not None else None

    def _release(self) -> None:
        super()._release()
        self.meter.settle(self._usage())


class MeteredExchange(_Metered):
    """One request, not for a stream, with an API key."""

    __slots__ = ("meter",)


class MeteredStream(_Metered, StreamExchange):
    """One request for a stream with an API key."""

    __slots__ = ("meter",)

    def _usage(self) -> Usage | None:
        """Return what the engine has named; of a stream that was cut short, what has gone to the client."""
        relay = self._relay
        if relay is None:
            return super()._usage()
        assert relay.watch is not None
        usage = relay.watch.usage
        if usage is not None and (self.meter.ended or relay.done):
            return usage
        prompt, completion = relay.relayed()
        if usage is not None:
            return Usage(usage.prompt, max(usage.completion, completion))
        if prompt is None:
            prompt = len(self.request.body) // _BYTES_PER_TOKEN
        return Usage(prompt, completion)


def metered(gateway: Gateway, client: ClientConnection, request: Request, route: Route) -> Exchange | Answer:
    """Return the exchange of a request with a key, not yet started, or the answer that refuses it."""
    access, key = gateway.access, request.key
    assert access is not None
    assert key is not None
    refusal = access.enter(key, route.model_id)
    if refusal is not None:
        return refusal
    if not route.pools[0].plain:
        # What is in front of an external engine might compress its answer, and then its usage could not be read.
        request.head = without(request.head, _ENCODING)
    kind = MeteredStream if request.stream and not request.upgrade else MeteredExchange
    exchange = kind(gateway, client, request, route)
    exchange.meter = meter = Meter(access, key, route.model_id)
    if meter.lines:
        request.plain = False  # the head of its answer is not one that came before
    return exchange
