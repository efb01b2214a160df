"""The life of one forwarded request: pick an engine, dispatch, retry elsewhere, pass the response through, count.

Until the first byte of the response has gone to the client, a failure moves the request to another engine; what becomes
of streams after it is in `shoal.gateway.stream`. What an exchange holds (one count in flight, one upstream connection)
it releases exactly once, on every path out.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING

from shoal.gateway.counters import NO_MODEL, Cell
from shoal.gateway.events import Dechunker
from shoal.gateway.faults import is_dead_core
from shoal.gateway.outcomes import CLIENT_GONE, count, count_whole
from shoal.gateway.response_head import Framing, ResponseHead
from shoal.gateway.responses import Answer, error, message_of
from shoal.gateway.trace import Explained, epoch
from shoal.gateway.tunnel import TunnelEnd
from shoal.gateway.upstream import UpstreamConnection
from shoal.gateway.usage import BodyWatch, Usage, last_usage

if TYPE_CHECKING:
    from shoal.gateway.client import ClientConnection
    from shoal.gateway.context import Gateway, Route
    from shoal.gateway.heads import KnownHead
    from shoal.gateway.keys import Key
    from shoal.gateway.pool import Pool
    from shoal.gateway.request import Request


_LENGTH, _CHUNKED, _CLOSE = Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE
_HELD = 256 * 1024  # bytes: a response of known length up to this goes out only when it is complete
# Seconds of silence, by the coarse clock, after which a lost engine is given up. Longer than a tick: a stream that
# still flows must not look silent.
_LOST_AFTER = 1.5


class Exchange:
    """One request on its way through engines.

    Args:
        gateway: the worker's shared state.
        client: the connection that gets the answer.
        request: the request.
        route: the engines it may go to, None for the control app.
    """

    __slots__ = (
        "_attempts",
        "_begun",
        "_block",
        "_chunk",
        "_dechunker",
        "_ends_with_connection",
        "_failures",
        "_held",
        "_outgoing",
        "_pool",
        "_reached",
        "_sent",
        "_status",
        "_tried",
        "_tunnelled",
        "_upstream",
        "_waits",
        "_work",
        "client",
        "ended",
        "gateway",
        "heard_at",
        "lines",
        "owner",
        "request",
        "route",
        "waited",
        "watch",
    )

    def __init__(
        self, gateway: Gateway, client: ClientConnection, request: Request, route: Route | None
    ) -> None:
        self.gateway = gateway
        self.client = client
        self.request = request
        self.route = route
        self.owner: Key | None = None  # its key, until what it has taken is counted (`metered`)
        self.lines: tuple[bytes, ...] = ()  # header lines about the key's limits
        self.watch: BodyWatch | None = None  # looks for the usage in an answer that is no stream
        self.ended = False  # the answer is complete
        self._begun = monotonic_ns()
        self._block = NO_MODEL if route is None else route.block  # of the cells that count what becomes of it
        self.heard_at = 0.0  # when the engine was last heard (coarse clock)
        self._outgoing = (
            request  # what engines get: the request, or one that goes on where its stream broke off
        )
        self.waited = 0.0  # seconds for a place at an engine
        self._waits: Callable[[], object] | None = None  # undoes what keeps it waiting for one
        self._pool: Pool | None = None  # whose count in flight this exchange holds
        self._work = 0  # that it holds there: bytes of prompt the engine has not begun to answer
        self._upstream: UpstreamConnection | None = None
        self._tried: tuple[Pool, ...] = ()
        self._failures: tuple[str, ...] = ()  # what happened there
        self._reached = False  # an engine has had the request
        self._attempts = 0
        self._status = 0  # of the response, once its head has gone to the client
        self._sent = 0
        self._held: list[bytes] | None = None  # a response that goes out when it is complete
        self._chunk = False
        self._dechunker: Dechunker | None = None
        self._ends_with_connection = False
        self._tunnelled = False

    # Dispatch.

    def start(self) -> None:
        """Send the request to an engine, at once if one has room."""
        route = self.route
        if route is None:
            self.begin(self.gateway.control)
        elif self.request.claim is None and (pool := route.admit(self.gateway, self.request)) is not None:
            self._attempt(pool)
        else:
            route.admission.enter(self)

    def begin(self, pool: Pool) -> None:
        """Send the request to the engine that was picked for it."""
        self._waits = None
        if self.waited and self.request.trace is not None:
            self.request.trace.note("queued", seconds=self.waited)
        self._attempt(pool)

    def waits_for(self, undo: Callable[[], object]) -> None:
        """The request waits; `undo` is to be called if its client goes away meanwhile."""
        self._waits = undo

    def refuse(self, answer: Answer) -> None:
        """There is no place for the request."""
        self._waits = None
        if self.request.trace is not None or answer.status >= 500:
            trace = self.gateway.traces.late(self.request, self._begun)
            trace.note("refused", text=message_of(answer))
        self._give_up(answer)

    def _attempt(self, pool: Pool) -> None:
        self._pool = pool
        self._block = pool.block
        gateway, request = self.gateway, self.request
        if not self._attempts:
            gateway.cells[Cell.BYTES_IN] += len(request.body)
        self._attempts += 1
        self.heard_at = gateway.coarse_now
        counts = pool.counts
        slot = counts.slot  # as `Counts.begin` does: calls are what costs here
        counts.in_flight[slot] += 1
        counts.requests[slot] += 1
        if request.work:
            self._work = work = request.work
            counts.work[slot] += work
        if request.trace is not None:
            request.trace.picked(pool.target.id)
        # A body that is not kept can be sent only once, so not over a connection that may have been closed meanwhile.
        upstream = pool.take() if request.upload is None else None
        if upstream is None:
            pool.connect(self)
        else:
            upstream.reused = True
            self._send(upstream, pool)

    def _send(self, upstream: UpstreamConnection, pool: Pool) -> None:
        request = self._outgoing
        if request.ask_ids or request.ask_usage:
            request = request.asking(ids=request.ask_ids and pool.target.token_ids, usage=request.ask_usage)
        manner = pool.manner
        if manner is None:
            head = request.head
        elif request.known is not None:
            head = request.known.head_for(manner, request)
        else:
            head = request.head_for(manner)
        if request.chunked:
            head += b"\r\ncontent-length: %d" % len(request.body)
        self._reached = True
        self._upstream = upstream
        upstream.send(self, head, request.body)
        if request.upload is not None:
            self.client.start_upload(upstream.transport)
        if self.client.write_paused:
            upstream.pause()

    # What the pool tells.

    def on_connected(self, upstream: UpstreamConnection) -> None:
        """Use the new connection."""
        pool = upstream.pool
        if self._pool is not pool:
            pool.give(upstream)  # as in `on_unreachable`
        else:
            self._send(upstream, pool)

    def on_unreachable(self, pool: Pool, reason: str) -> None:
        """The engine did not accept a connection: try another."""
        if self._pool is not pool:
            return  # the client went away meanwhile, or the request is with another engine by now
        if not pool.is_control:
            self.gateway.faults.unreachable(pool.target.id, reason, self.gateway.now())
        self._go_elsewhere(pool, reason)

    # What the connection tells.

    def on_stale(self) -> None:
        """A reused connection turned out to be closed: no fault of the engine, so the same one once more."""
        self._upstream = None
        self.gateway.cells[Cell.STALE_RETRIES] += 1
        assert self._pool is not None
        self._pool.connect(self)

    def on_failed(self, reason: str) -> None:
        """The engine took the request and gave no answer: try another."""
        pool = self._pool
        assert pool is not None
        self._upstream = None
        if not pool.is_control:
            self.gateway.faults.fault(pool.target.id, reason, self.gateway.now())
        self._go_elsewhere(pool, reason)

    def on_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx on, except the 100 that answers nothing the client has asked."""
        if head.status != 100 and not self.request.http10 and not self._status:
            self.client.write(head.head + b"\r\n\r\n")

    def on_head(self, head: ResponseHead, first: bytes) -> None:
        """Send the response head and what has come of the body."""
        client, request, pool = self.client, self.request, self._pool
        assert pool is not None
        text = head.head
        if not pool.is_control:
            text += pool.engine_line
            if self._attempts > 1 or self.waited or request.trace is not None:
                text += self._remarks(text)
            if self.gateway.faults.avoided:
                self.gateway.faults.reachable(pool.target.id)
        framing = head.framing
        if framing is _CLOSE:
            if not request.http10:
                text += b"\r\ntransfer-encoding: chunked"
                self._chunk = True
        elif framing is _CHUNKED and request.http10:
            self._dechunker = Dechunker()
        # With HTTP/1.0 and no length, an orderly end of the connection is how a complete response looks.
        self._ends_with_connection = request.http10 and head.length < 0
        if not client.persists(request):
            text += b"\r\nconnection: close"
        text += b"\r\n\r\n"
        if framing is _LENGTH and head.length <= _HELD and (len(first) < head.length or head.status == 500):
            self._held = [text, first]
            return
        self._status = head.status
        if self._chunk or self._dechunker is not None:
            self._sent = len(text)
            client.write(text)
            if first:
                self.on_body(first)
        else:
            self._sent = len(text) + len(first)
            client.write(text + first)

    def on_known(self, known: KnownHead, digits: bytes, body: bytes) -> None:
        """Send a whole response of status 200 whose head is known; what cannot be added to that takes the long way.

        The request is plain (`Request.plain`), and the upstream connection has been given back.
        """
        self._upstream = None
        gateway, pool, client, request = self.gateway, self._pool, self.client, self.request
        assert pool is not None
        data = known.head_before + digits + known.head_after + body
        special = self._attempts > 1 or self.waited or gateway.faults.avoided
        if special or gateway.closing or not request.keep_alive:
            data = self._changed(known.head_before + digits + known.head_after) + body
        self._pool = None
        if self._work:
            self._settle(pool)
        pool.end()
        cells = gateway.cells
        cells[Cell.REQUESTS] += 1
        cells[Cell.BYTES_OUT] += len(data)
        took = monotonic_ns() - self._begun
        count_whole(gateway.outcomes, self._block, took)
        if special or took > gateway.traces.slow:
            self._remember(200, took)
        client.write_whole(data)
        if self.owner is not None:
            self._charge(last_usage(body))
        client.finished(request)

    def _charge(self, usage: Usage | None) -> None:
        """Count for its key that the request is over, and what it has taken; the first time counts."""
        key, self.owner = self.owner, None
        if key is not None:
            assert self.gateway.access is not None
            assert self.route is not None
            self.gateway.access.leave(key, self.route.model_id, usage)

    def _changed(self, head: bytes) -> bytes:
        """Return the known head of a response with what this exchange adds to it, empty line included."""
        head = head[:-4]
        pool = self._pool
        assert pool is not None
        if not pool.is_control:
            head += self._remarks(head)
            self.gateway.faults.reachable(pool.target.id)
        if not self.client.persists(self.request):
            head += b"\r\nconnection: close"
        return head + b"\r\n\r\n"

    def _remarks(self, head: bytes) -> bytes:
        """Return header lines about the request's way to its engine, each behind a line end; `head` is the answer's."""
        lines = b""
        if self._attempts > 1:
            lines += b"\r\nx-shoal-attempts: %d" % self._attempts
        if self.waited:
            lines += b"\r\nx-shoal-queue-time: %.3f" % self.waited
        trace = self.request.trace
        if trace is not None and b"\r\nx-request-id:" not in head.lower():
            lines += b"\r\nx-request-id: " + trace.name.encode()
        return lines

    def on_upgraded(self, head: ResponseHead, first: bytes) -> None:
        """The engine has changed the protocol: pass bytes on both ways until one side closes."""
        upstream, pool, client = self._upstream, self._pool, self.client
        assert upstream is not None
        assert pool is not None
        self._tunnelled = True
        self._status = 200  # what it counts as, when it ends
        text = head.head + pool.engine_line + b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        upstream.transport.set_protocol(TunnelEnd(self, client))
        client.open_tunnel(upstream.transport)
        self.on_tunnel_data(text + first)

    def on_tunnel_data(self, data: bytes) -> None:
        """Pass bytes of an upgraded connection on."""
        self.heard_at = self.gateway.coarse_now
        self._sent += len(data)
        self.client.write(data)

    def on_tunnel_closed(self) -> None:
        """The engine has closed an upgraded connection."""
        if self._pool is None:
            return  # the client has, before
        self._drop_upstream()
        self._release()
        self._count(self._status)
        self.client.close_tunnel()

    def on_body(self, data: bytes) -> None:
        """Pass bytes of the body on."""
        self.heard_at = self.gateway.coarse_now
        if self._held is not None:
            self._held.append(data)
            return
        if self._dechunker is not None:
            data = self._dechunker.feed(data)
        self._emit(data)

    def _emit(self, data: bytes) -> None:
        """Send content to the client, in its framing."""
        if self._chunk:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._sent += len(data)
        self.client.write(data)

    def on_end(self) -> None:
        """The response is complete."""
        self._upstream = None
        if self._held is not None:
            held, self._held = b"".join(self._held), None
            status = int(held[9:12])
            if status == 500 and self.route is not None and is_dead_core(held):
                self.on_failed("its engine core is dead")
                return
            self._status = status
            self._sent = len(held)
            self.client.write_whole(held)
        self._complete()

    def _complete(self) -> None:
        """Everything has gone to the client."""
        if self._chunk:
            self.client.write(b"0\r\n\r\n")
        self._release()
        self._count(self._status)
        self.client.finished(self.request)

    def on_truncated(self, reason: str) -> None:
        """The response broke off."""
        self._upstream = None
        if self._held is not None:  # none of it has gone out
            self._held = None
            self.on_failed(reason)
            return
        # Its beginning has gone out, and there is no more: end the client's connection, visibly.
        pool = self._pool
        assert pool is not None
        if not pool.is_control:
            self.gateway.faults.fault(pool.target.id, reason, self.gateway.now())
            self._count_fault(pool)
        self.gateway.cells[Cell.TRUNCATED] += 1
        self._release()
        self._count(self._status)
        self.client.broken(abruptly=self._ends_with_connection)

    # What the client's side tells.

    def cancel(self) -> None:
        """The client went away: so does the upstream connection, and the engine aborts the request."""
        if self._tunnelled:  # closing is how a WebSocket ends
            self._count(self._status)
        else:
            self.gateway.cells[Cell.CLIENT_DISCONNECTS] += 1
            self._observe(CLIENT_GONE)
        if self._waits is not None:
            self._waits()
        self._drop_upstream()
        self._release()

    def pause(self) -> None:
        """The client does not keep up: read no more from the engine."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        """The client has caught up."""
        if self._upstream is not None:
            self._upstream.resume()

    def silence(self) -> float:
        """Return the seconds since the engine was last heard, or got the request, by the coarse clock."""
        return self.gateway.coarse_now - self.heard_at

    def check_silence(self) -> None:
        """Fail over from an engine that says nothing and of which nothing is to be expected.

        Silence alone is no fault: an engine that queues, prefills or writes a long answer that is not streamed sends
        nothing. That the node knows it to be gone or hung, or has taken it out of the table for long, is.
        """
        pool, gateway = self._pool, self.gateway
        if pool is None or self.client.write_paused:
            return
        silence, limit = self.silence(), gateway.settings.response_timeout
        if pool.is_control:
            if limit is not None and silence >= limit:
                self._drop_upstream()
                if self.request.upload is not None and self.request.upload.remaining:
                    text = f"Nothing more of the file has come for {limit:g} s."
                    self._give_up(error(408, text, code="request_timeout"))
                    return
                text = f"The node's control interface was silent for {limit:g} s."
                self._give_up(error(504, text, code="control_timeout"))
            return
        lost = silence >= _LOST_AFTER and pool.target.id in gateway.lost
        if lost or (limit is not None and silence >= limit and not gateway.routes_to(pool)):
            self._drop_upstream()
            reason = f"silent for {silence:.0f} s"
            if self._status:
                self.on_truncated(reason)
            else:
                self._held = None
                self.on_failed(reason)

    # Ends.

    def _go_elsewhere(self, pool: Pool, reason: str) -> None:
        """Go on after `pool` has failed, if there is a way."""
        pool.counts.end()  # what waits comes later: the place of a failed engine is not worth much
        self._settle(pool)
        self._pool = None
        gateway = self.gateway
        if self.route is None:
            self._give_up(error(502, f"The node's control interface is away: {reason}.", code="control_away"))
            return
        self._count_fault(pool)
        gateway.traces.late(self.request, self._begun).note("failed", engine=pool.target.id, text=reason)
        self._tried += (pool,)
        self._failures += (f"{pool.target.id}: {reason}",)
        # The table may have changed since the request came in: retry among the engines there are now.
        self.route = route = gateway.routes.get(self.route.model_id, self.route)
        self._retry(route)

    def _retry(self, route: Route) -> None:
        """Send the request to another engine of `route`."""
        gateway = self.gateway
        if self._attempts < gateway.settings.max_attempts and route.has_others(self._tried):
            gateway.cells[Cell.RETRIES] += 1
            self._attempt(route.choose(self._tried, gateway, self.request))
        else:
            self._give_up(self._no_answer())

    def _no_answer(self) -> Answer:
        what = "; ".join(self._failures)
        if self._reached:
            return error(502, f"No engine answered the request ({what}).", code="engine_failed")
        return error(
            503,
            f"No engine could be reached ({what}).",
            code="engine_unreachable",
            headers=(b"retry-after: %d" % self.gateway.table.retry_after,),
        )

    def _give_up(self, answer: Answer) -> None:
        self._release()
        self._block = NO_MODEL if self.route is None else self.route.block
        trace = self.request.trace
        if answer.status >= 500 and self.route is not None:
            trace = self.gateway.traces.late(self.request, self._begun)
        if trace is not None:
            answer = trace.named(answer)
        self._count(answer.status)
        self.client.answer_failed(self.request, answer)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()

    def _release(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            self._settle(pool)
            pool.end()

    def _settle(self, pool: Pool) -> None:
        """The engine has computed the prompt, or never will."""
        if self._work:
            pool.counts.work[pool.counts.slot] -= self._work
            self._work = 0

    def _count(self, status: int) -> None:
        cells = self.gateway.cells
        cells[Cell.REQUESTS + 2 * (status // 100 - 2) + self.request.stream] += 1
        cells[Cell.BYTES_OUT] += self._sent
        self._observe(status)

    def _observe(self, status: int) -> None:
        """Count what has become of the request, and how long that took."""
        took = monotonic_ns() - self._begun
        count(self.gateway.outcomes, self._block, status, self.request.stream, took)
        if self.request.trace is not None or status >= 500 or took > self.gateway.traces.slow:
            self._remember(status, took)

    def _remember(self, status: int, took: int) -> None:
        """Keep what can be told of the request, if it is one to be explained."""
        route, request, traces = self.route, self.request, self.gateway.traces
        if route is None or (
            request.trace is None and (self._tunnelled or (status < 500 and took <= traces.slow))
        ):
            return
        trace = traces.late(request, self._begun)
        first, events, answer_id = self._streamed()
        asked = [step.engine for step in trace.steps if step.engine]
        traces.keep(
            trace,
            Explained(
                id=trace.name,
                answer_id=answer_id,
                began=epoch(trace.began),
                method=request.method.decode("latin-1"),
                path=request.target.partition(b"?")[0].decode("latin-1"),
                model=route.model_id,
                key=request.key.name if request.key is not None else "",
                stream=request.stream,
                status=status,
                seconds=took / 1e9,
                queued=self.waited,
                first=first,
                events=events,
                engine=self.gateway.engine_of(self._block) or next(reversed(asked), ""),
                attempts=self._attempts,
                followed=trace.followed,
                steps=tuple(trace.steps),
            ),
            self._told_usage() if trace.span is not None else None,
        )

    def _told_usage(self) -> Usage | None:
        """Return what the engine has said that the request has taken, None where that is not looked at."""
        return None

    def _streamed(self) -> tuple[float, int, str]:
        """Return of a stream the seconds to its first event, how many there were, and the id they have."""
        return 0.0, 0, ""

    def _count_fault(self, pool: Pool) -> None:
        pool.counts.fault()
        self.gateway.cells[Cell.UPSTREAM_FAULTS] += 1
