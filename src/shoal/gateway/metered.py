"""Requests with an API key: admitted within its limits, and counted by the usage that the engine names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shoal.gateway.exchange import Exchange
from shoal.gateway.fields import without
from shoal.gateway.response_head import Framing, ResponseHead
from shoal.gateway.stream import StreamExchange
from shoal.gateway.usage import BodyWatch, Usage

if TYPE_CHECKING:
    from shoal.gateway.client import ClientConnection
    from shoal.gateway.context import Gateway, Route
    from shoal.gateway.request import Request
    from shoal.gateway.responses import Answer

_CHUNKED = Framing.CHUNKED
_BYTES_PER_TOKEN = 4  # about: of a prompt whose length no engine has told
_FIELDS = frozenset(
    f"x-ratelimit-{what}-{of}".encode()
    for what in ("limit", "remaining", "reset")
    for of in ("requests", "tokens")
)


class MeteredExchange(Exchange):
    """One request, not for a stream, with an API key."""

    __slots__ = ()

    def on_head(self, head: ResponseHead, first: bytes) -> None:
        """Say how much of the limits is left, and look for the usage from here on."""
        self.watch = None
        told = head
        if self.lines:
            text = head.head
            if b"x-ratelimit-" in text.lower():  # an external engine has limits of its own, for us
                text = without(text, _FIELDS)
            told = msgspec.structs.replace(head, head=b"\r\n".join((text, *self.lines)))
        super().on_head(told, first)
        if head.status == 200 and not (self.request.stream and head.events):
            self.watch = BodyWatch(head.framing is _CHUNKED)
            self.watch.see(first)

    def on_body(self, data: bytes) -> None:
        """Look at what passes."""
        if self.watch is not None:
            self.watch.see(data)
        super().on_body(data)

    def on_end(self) -> None:
        """The response is complete."""
        self.ended = True
        super().on_end()

    def _usage(self) -> Usage | None:
        return self.watch.usage if self.watch is not None else None

    def _told_usage(self) -> Usage | None:
        return self.watch.usage if self.watch is not None else None

    def _release(self) -> None:
        super()._release()
        self._charge(self._usage())


class MeteredStream(MeteredExchange, StreamExchange):
    """One request for a stream with an API key."""

    __slots__ = ()

    def _told_usage(self) -> Usage | None:
        relay = self._relay
        return relay.watch.usage if relay is not None and relay.watch is not None else super()._told_usage()

    def _usage(self) -> Usage | None:
        """Return what the engine has named; of a stream that was cut short, what has gone to the client."""
        relay = self._relay
        if relay is None:
            return super()._usage()
        assert relay.watch is not None
        usage = relay.watch.usage
        if usage is not None and (self.ended or relay.done):
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
    kind = MeteredStream if request.stream and not request.upgrade else MeteredExchange
    exchange = kind(gateway, client, request, route)
    exchange.owner = key
    if key.requests_per_minute is not None or key.tokens_per_minute is not None:
        exchange.lines = access.limiter.header_lines(key)
        request.plain = False  # the head of its answer is not one that came before
    return exchange
