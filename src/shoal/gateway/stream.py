"""The life of a request that wants a stream: when its engine fails, another one goes on where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING

from shoal.gateway.continuation import CannotResumeError
from shoal.gateway.counters import Cell
from shoal.gateway.events import CHUNK_LINES, SIZE_LINES, StreamError, whole_chunk
from shoal.gateway.exchange import Exchange
from shoal.gateway.faults import is_dead_core
from shoal.gateway.forms import CHUNK_END, EventForm
from shoal.gateway.outcomes import count_first, count_gaps
from shoal.gateway.relay import Relay, broken_event
from shoal.gateway.response_head import Framing, ResponseHead
from shoal.gateway.splice import EngineError, SeamError
from shoal.gateway.transcript import FOLD_PIECES
from shoal.gateway.usage import Usage

if TYPE_CHECKING:
    from shoal.gateway.client import ClientConnection
    from shoal.gateway.context import Gateway, Route
    from shoal.gateway.pool import Pool
    from shoal.gateway.request import Request

_CHUNKED = Framing.CHUNKED
_LONGEST = len(CHUNK_LINES) - 1  # bytes of a chunk with its framing
_EVENT = b"data:"
_NO_GAPS = 2  # events that end no gap: the first one, and that which says that the stream is complete


class StreamExchange(Exchange):
    """One request for a stream on its way through engines.

    Answers that are no streams of events (errors, mostly) take the way of any other answer.

    Args:
        gateway: the worker's shared state.
        client: the connection that gets the answer.
        request: the request.
        route: the engines it may go to.
    """

    __slots__ = ("_events", "_first_at", "_relay", "_resumes")

    def __init__(self, gateway: Gateway, client: ClientConnection, request: Request, route: Route) -> None:
        super().__init__(gateway, client, request, route)
        self._relay: Relay | None = None  # once a stream of events has begun
        self._resumes = 0
        self._events = 0  # that have come, about
        self._first_at = 0  # when the first one did

    # What the connection tells.

    def on_head(self, head: ResponseHead, first: bytes) -> None:
        """Send the response head and what has come of the body, or go on with what another engine has begun."""
        if self._relay is not None:
            self._on_continued(self._relay, head, first)
            return
        if not head.events:
            super().on_head(head, first)
            return
        request, settings, pool = self.request, self.gateway.settings, self._pool
        assert pool is not None
        super().on_head(head, b"")
        self._chunk = not request.http10
        self._dechunker = None
        self._relay = Relay(
            self._path(),
            request.body,
            settings.resume,
            settings.resume_buffer,
            watched=request.key is not None,
        )
        self._relay.begin(
            chunked=head.framing is _CHUNKED,
            strip=request.ask_ids and pool.target.token_ids,
            strip_usage=request.ask_usage,
        )
        self._take_chunks(head)
        if first:
            self.on_body(first)

    def _take_chunks(self, head: ResponseHead) -> None:
        """Have the connection say it when a chunk comes alone."""
        if head.framing is _CHUNKED and self._upstream is not None:
            self._upstream.take_chunks(self.on_chunk)

    def on_body(self, data: bytes) -> None:
        """Pass whole events on."""
        relay = self._relay
        if relay is None:
            super().on_body(data)
            return
        self._pass_on(relay, relay.feed, data)

    def _pass_on(self, relay: Relay, feed: Callable[[bytes], bytes], data: bytes) -> None:
        self.heard_at = self.gateway.coarse_now
        if self._work:
            assert self._pool is not None
            self._settle(self._pool)
        self._events += data.count(_EVENT)
        if not self._first_at and self._events:
            self._note_first()
        try:
            data = feed(data)
        except StreamError as problem:
            self._on_stream_error(relay, problem)
            return
        if data:
            if self._chunk:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            self._sent += len(data)
            self.client.write(data)

    def on_chunk(self, data: bytes) -> bool:
        """Pass on what a chunk of events has in it if `data` are one, as nearly always. Return whether they are."""
        content = whole_chunk(data)
        if content is None:
            return False
        relay, upstream = self._relay, self._upstream
        assert relay is not None
        assert upstream is not None
        self._pass_on(relay, relay.feed_content, content)
        if self._chunk and relay.form is not None and upstream.on_chunk is not None:
            upstream.on_chunk = self._lane(relay, relay.form)
        return True

    def _lane(self, relay: Relay, form: EventForm) -> Callable[[bytes], bool]:
        """Return what does as `on_chunk` does, in fewer steps, for events of the stream's usual form.

        Nearly all of what a worker does with streams is done here, so it is one function with all it needs at hand.
        """
        before, between, after, has_ids, rest = form
        before_size, between_size = len(before), len(between)
        after_size, rest_size = len(after), len(rest or b"") - len(CHUNK_END)
        said, watch, events = relay.said, relay.watch, relay.events
        assert said is not None
        texts, ids = said.pieces, said.piece_ids
        gateway, write, others = self.gateway, self.client.write, self.on_chunk

        def take(data: bytes) -> bool:
            size = len(data)
            if size > _LONGEST or events.rest:
                return others(data)
            line = CHUNK_LINES[size]
            start = len(line)
            first = start + before_size
            # A string without a quote in it: one with an escaped quote does not go on with `between`, which has quotes.
            quote = data.find(b'"', first)
            first_id, end = quote + between_size, size - after_size
            if (
                not data.startswith(line)
                or not data.startswith(before, start)
                or not data.startswith(between, quote)
                or not data.endswith(after)
                or (data.find(b"]", first_id) if has_ids else first_id) != end
            ):
                return others(data)
            texts.append(data[first:quote])
            if has_ids:
                ids.append(data[first_id:end])
            if len(texts) == FOLD_PIECES:
                said.read()
            if watch is not None:
                watch.pieces += 1
            if rest is not None:
                data = SIZE_LINES[quote - start + rest_size] + data[start:quote] + rest
            self.heard_at = gateway.coarse_now
            self._events += 1
            self._sent += len(data)
            write(data)
            return True

        return take

    def _note_first(self) -> None:
        self._first_at = now = monotonic_ns()
        count_first(self.gateway.outcomes, self._block, now - self._begun)
        self._flow()

    def _flow(self) -> None:
        """Have what else comes read together with what comes of other streams."""
        if self._upstream is not None:
            self.gateway.reads.add(self._upstream)

    def _observe(self, status: int) -> None:
        super()._observe(status)
        gaps = self._events - _NO_GAPS
        if gaps > 0:
            count_gaps(self.gateway.outcomes, self._block, gaps, monotonic_ns() - self._first_at)

    def _streamed(self) -> tuple[float, int, str]:
        first = (self._first_at - self._begun) / 1e9 if self._first_at else 0.0
        said = self._relay.said if self._relay is not None else None
        if said is not None:
            said.read()
        return first, self._events, said.head.id if said is not None and said.head is not None else ""

    def _told_usage(self) -> Usage | None:
        relay = self._relay
        said = relay.said if relay is not None else None
        if relay is None or said is None or relay.tokens or not said.usage_sent or said.prompt_tokens is None:
            return None
        return Usage(said.prompt_tokens, said.completion_tokens)

    def on_end(self) -> None:
        """The response is complete, or the engine says so."""
        if self._relay is not None and self._relay.ended_early():
            self._upstream = None
            self._on_fault("its stream ended early")
        else:
            super().on_end()

    def on_truncated(self, reason: str) -> None:
        """The response broke off."""
        if self._relay is None:
            super().on_truncated(reason)
            return
        self._upstream = None
        if self._relay.done:
            self._complete()
        else:
            self._on_fault(reason)

    # When it has broken off.

    def _on_fault(self, reason: str) -> None:
        """The stream broke off by its engine's fault."""
        pool = self._pool
        assert pool is not None
        self.gateway.faults.fault(pool.target.id, reason, self.gateway.now())
        self._go_elsewhere(pool, reason)

    def _on_stream_error(self, relay: Relay, problem: StreamError) -> None:
        """What the engine has sent cannot go on to the client."""
        self._drop_upstream()
        pool = self._pool
        assert pool is not None
        if isinstance(problem, SeamError) and relay.seam_failed():
            pool.counts.end()
            self._settle(pool)
            self._pool = None
            self._continue_on(pool, relay)
        elif isinstance(problem, EngineError) and not is_dead_core(str(problem).encode()):
            self._go_elsewhere(pool, str(problem))  # the trouble of this request alone, for all that is known
        else:
            self._on_fault(str(problem))

    def _retry(self, route: Route) -> None:
        """Have another engine go on."""
        relay, gateway = self._relay, self.gateway
        if relay is None:
            super()._retry(route)
            return
        most = gateway.settings.max_resumes
        try:
            rest = relay.rest(route.max_model_len)
            if rest is None and self._resumes >= most:
                raise CannotResumeError(f"it has been continued {most} times already (recovery.max_resumes)")
            if rest is None and not route.has_others(self._tried):
                raise CannotResumeError("no other engine is left")
        except CannotResumeError as refusal:
            self._end_broken(refusal)
            return
        if rest is None:
            self._continue_on(route.choose(self._tried, gateway, self.request), relay)
        else:
            self._emit(rest)
            self._complete()

    def _continue_on(self, pool: Pool, relay: Relay) -> None:
        assert self.route is not None
        try:
            plan = relay.plan(token_ids=pool.target.token_ids, max_model_len=self.route.max_model_len)
        except CannotResumeError as refusal:
            self._end_broken(refusal)
            return
        self._outgoing = self.request if plan is None else self.request.with_body(plan.target, plan.body)
        self._resumes += 1
        self._attempt(pool)

    def _on_continued(self, relay: Relay, head: ResponseHead, first: bytes) -> None:
        """An engine answers the request to go on."""
        pool, gateway = self._pool, self.gateway
        assert pool is not None
        if head.status != 200 or not head.events:
            self._drop_upstream()
            self._go_elsewhere(pool, f"answered {head.status} when asked to go on")
            return
        gateway.cells[Cell.RESUMES] += 1
        gateway.traces.late(self.request, self._begun).note(
            "resumed", engine=pool.target.id, tokens=relay.tokens
        )
        if gateway.faults.avoided:
            gateway.faults.reachable(pool.target.id)
        outgoing = self._outgoing
        relay.begin(
            chunked=head.framing is _CHUNKED,
            strip=outgoing.ask_ids and pool.target.token_ids,
            strip_usage=outgoing.ask_usage,
        )
        self._take_chunks(head)
        self._flow()
        # A comment, which clients pass over: who reads the stream can see its seams.
        self._emit(
            f": shoal: {self._failures[-1]}; {pool.target.id} goes on after {relay.tokens} tokens\n\n".encode()
        )
        if first:
            self.on_body(first)

    def _end_broken(self, refusal: CannotResumeError) -> None:
        """End the stream with an error event: no engine can go on."""
        cells = self.gateway.cells
        cells[Cell.BROKEN_STREAMS] += 1
        cells[Cell.TRUNCATED] += 1
        what = "; ".join(self._failures)
        self.gateway.traces.late(self.request, self._begun).note("broken", text=str(refusal))
        text = f"The stream broke off ({what}) and no other engine can go on with it: {refusal}."
        self._emit(broken_event(self._path(), text))
        self._complete()

    def _path(self) -> bytes:
        return self.request.target.partition(b"?")[0]
