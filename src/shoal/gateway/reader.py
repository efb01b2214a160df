"""Reads requests from bytes: framing and heads, strictly. A state machine without I/O.

llhttp (strict) judges every byte. A head is handed to it in one piece with nothing behind it, a body up to its end,
so the places where requests begin and end are known here, and llhttp must agree. What it lets pass and a gateway must
not is refused in `shoal.gateway.request`. Behind a request that is refused the framing is in doubt: nothing more is
read from its connection.

A request whose head is known (`shoal.gateway.heads`) goes past llhttp, which stays where it is between two requests.
"""

from __future__ import annotations

from collections import deque

import httptools

from shoal.gateway.heads import MAX_DIGITS, KnownRequest, KnownRequests
from shoal.gateway.messages import WorkerSettings
from shoal.gateway.request import (
    MAX_TARGET,
    RefusalError,
    Request,
    asks_for_websocket,
    parse_request,
    with_upgrade,
    with_upload,
    without_upgrade,
)
from shoal.gateway.responses import Answer, error
from shoal.gateway.upload import Upload

_HEAD_END = b"\r\n\r\n"
_MAX_PARTS = 1024  # pieces of a body kept apart: an object for every two bytes would cost 20 times their size


class RequestReader:
    """The requests of one connection.

    Args:
        settings: limits.
        heads: those that are known, of all connections of a worker; None to know none.

    Attributes:
        requests: those that are complete, oldest first; the owner takes them out.
        refusal: what a request behind them is to be answered, None if nothing is wrong.
        upload: takes what comes behind the last request of the connection; None where nothing may.
        ended: no more is read: something was refused, or the last request of the connection has been read.
    """

    __slots__ = (
        "_bulk",
        "_complete",
        "_continue_due",
        "_fed",
        "_head",
        "_heads",
        "_known",
        "_overhead",
        "_parser",
        "_parts",
        "_past",
        "_remaining",
        "_request",
        "_seam",
        "_settings",
        "_size",
        "ended",
        "refusal",
        "requests",
        "upload",
    )

    def __init__(self, settings: WorkerSettings, heads: KnownRequests | None = None) -> None:
        self.requests: deque[Request] = deque()
        self.refusal: Answer | None = None
        self.ended = False
        self.upload: Upload | None = None
        self._settings = settings
        self._heads = heads
        self._known: KnownRequest | None = None  # the head of the last request, if it is known
        self._past = False  # llhttp has not had the head of the request being read
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._head = b""  # the beginning of a head that comes in pieces
        self._fed = 0  # bytes of it that llhttp has had
        self._request: Request | None = None  # the one being read, once its head is complete
        self._complete = False  # llhttp has seen its end
        self._remaining = 0  # bytes of its body to come, by Content-Length
        self._bulk = bytearray()  # its body so far, if that came in many pieces,
        self._parts: list[bytes] = []  # and what has come since
        self._size = 0  # of its body so far
        self._seam = b""  # the last bytes of chunks, which may be half of what ends them
        self._overhead = 0  # bytes of chunks since the body last grew
        self._continue_due = False

    def idle(self) -> bool:
        """Whether nothing of a further request has come."""
        return self._request is None and not self._head

    def in_body(self) -> bool:
        """Whether the head of a further request has come, and its body is not complete."""
        return self._request is not None

    def take_continue(self) -> bool:
        """Whether the client is waiting for a 100 before it sends its body; True once at most."""
        due, self._continue_due = self._continue_due, False
        return due and not self._size and not self._overhead

    def feed(self, data: bytes) -> None:
        """Read bytes that follow those read before. Nothing is raised: see `refusal`."""
        known = self._known
        if known is not None and self._request is None and not self._head and data.startswith(known.before):
            # Nearly always: the head that this connection has had before, all of a body, and nothing else.
            start = known.before_size
            end = data.find(b"\r", start, start + MAX_DIGITS + 1)
            digits = data[start:end]
            if digits.isdigit() and data.startswith(known.after, end):
                start = end + known.after_size
                length = int(digits)
                if length == len(data) - start and length <= self._settings.max_body:
                    self.requests.append(known.request(digits, length, data[start:]))
                    return
        if self._head:
            self._fed = len(self._head)
            data = self._head + data
            self._head = b""
        position = 0
        try:
            while position < len(data) and not self.ended:
                if self._request is None:
                    position = self._feed_head(data, position)
                elif self._request.chunked:
                    position = self._feed_chunks(self._request, data, position)
                else:
                    position = self._feed_body(self._request, data, position)
        except RefusalError as refusal:
            self.refuse(refusal.answer)
        except httptools.HttpParserError as problem:
            if "HTTP version" in str(problem) or "PRI" in str(problem):
                self.refuse(error(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.", code="http_version"))
            else:
                self.refuse(error(400, f"This is not a proper request: {problem}.", code="bad_request"))

    def refuse(self, answer: Answer) -> None:
        """Read no more; `answer` is due when everything in `requests` is answered."""
        self.refusal = answer
        self.close()

    def close(self) -> None:
        """Read no more."""
        self.ended = True
        self._parser = None  # breaks a reference cycle
        self._request = None
        self._known = None
        self._head = b""
        self._drop_body()

    def _drop_body(self) -> None:
        self._parts = []
        self._size = 0
        if self._bulk:
            self._bulk = bytearray()

    # What llhttp calls.

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        parts = self._parts
        parts.append(data)
        self._size += len(data)
        self._overhead = 0
        if len(parts) == _MAX_PARTS:
            self._bulk += b"".join(parts)
            parts.clear()

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        self._complete = True

    # The parts of a request.

    def _feed_head(self, data: bytes, start: int) -> int:  # noqa: PLR0912 one case for each kind of head
        """Read a head, or a piece of one, that begins at `start`. Return where it ends."""
        assert self._parser is not None
        fed = self._fed
        end = data.find(_HEAD_END, start + fed - 3 if fed > 3 else start)
        if end < 0:
            self._head = data[start:]
            self._parser.feed_data(data[start + fed :])
            self._check_partial_head(self._head)
            return len(data)
        stop = end + 4
        head = data[start:end]
        self._fed = 0
        heads = self._heads
        if heads is not None and not fed and self._take_known(heads, head):
            return stop
        if head[:1] <= b"\r":
            head = self._without_empty_lines(head)
        try:
            self._parser.feed_data(data[start + fed : stop])
        except httptools.HttpParserUpgrade:
            # llhttp would read no body now. The upgrade can be declined (RFC 9110, 7.8): read on without it.
            if head.startswith(b"CONNECT "):
                raise RefusalError(501, "This is no forward proxy.", "no_proxy") from None
            if asks_for_websocket(head):
                if len(data) > stop:
                    raise RefusalError(
                        400, "Nothing may follow before the upgrade is answered.", "bad_request"
                    ) from None
                self._finish(with_upgrade(parse_request(head, self._settings)))
                return stop
            self._complete = False
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(without_upgrade(head) + _HEAD_END)
            heads = None
        if not head:
            return stop
        self._request = request = with_upload(parse_request(head, self._settings))
        if request.upload is not None:
            self._leave_to(request, data[stop:])
            return len(data)
        if heads is not None:
            heads.learn(head, request)
        if request.length or request.chunked:
            if self._complete:
                raise RefusalError(400, "The end of the request is in doubt.", "bad_framing")
            self._remaining = request.length
            self._continue_due = request.expects_continue
            self._seam = b""
            self._overhead = 0
        else:
            self._finish(request)
        return stop

    def _leave_to(self, request: Request, rest: bytes) -> None:
        """Queue a request whose body is not read here; what comes from now on belongs to its `Request.upload`."""
        assert request.upload is not None
        request.upload.feed(rest)
        self.upload = request.upload
        self.requests.append(request)
        self.close()

    def _take_known(self, heads: KnownRequests, head: bytes) -> bool:
        """Begin a request, of which llhttp has seen nothing, if its head is known. Return whether it is."""
        found = heads.find(head)
        if found is None:
            self._known = None
            return False
        self._known, self._request = found
        self._past = True
        self._remaining = self._request.length
        if not self._remaining:
            self._complete = True
            self._finish(self._request)
        return True

    def _without_empty_lines(self, head: bytes) -> bytes:
        """Return a head without empty lines in front of it, which are to be ignored (RFC 9112, 2.2)."""
        stripped = head.lstrip(b"\r\n")
        lines = head[: len(head) - len(stripped)]
        if stripped and lines.replace(b"\r\n", b""):  # llhttp takes bare ones
            raise RefusalError(400, "This is not a proper request.", "bad_request")
        return stripped

    def _check_partial_head(self, head: bytes) -> None:
        limit = self._settings.max_header
        if len(head) > MAX_TARGET and b"\r\n" not in head:
            raise RefusalError(414, "The request target is too long.", "target_too_long")
        if len(head) > limit:
            raise RefusalError(431, f"The request head is longer than {limit} bytes.", "head_too_large")

    def _feed_body(self, request: Request, data: bytes, start: int) -> int:
        """Read a body of known length, or a piece of one. Return where it ends."""
        assert self._parser is not None
        piece = data[start : start + self._remaining]
        self._remaining -= len(piece)
        if self._past:
            self.on_body(piece)
            self._complete = not self._remaining
        else:
            self._parser.feed_data(piece)
        if not self._remaining:
            self._finish(request)
        return start + len(piece)

    def _feed_chunks(self, request: Request, data: bytes, start: int) -> int:
        """Read chunks up to the next empty line, where they may end. Return where that is."""
        assert self._parser is not None
        settings = self._settings
        seam = self._seam
        if (end := (seam + data[start : start + 3]).find(_HEAD_END)) >= 0:
            stop = start + end + 4 - len(seam)
        elif (end := data.find(_HEAD_END, start)) >= 0:
            stop = end + 4
        else:
            stop = len(data)
        piece = data[start:stop]
        self._seam = (seam + piece[-3:])[-3:]
        self._overhead += len(piece)
        self._parser.feed_data(piece)
        if self._size > settings.max_body:
            raise RefusalError(
                413, f"The request body is longer than {settings.max_body} bytes.", "body_too_large"
            )
        if self._overhead > settings.max_header:
            raise RefusalError(400, "Chunk extensions or trailers are too long.", "bad_chunks")
        if self._complete:
            self._finish(request)
        return stop

    def _finish(self, request: Request) -> None:
        """Queue a request that has been read to its end, about which llhttp must be of the same opinion."""
        if not self._complete:
            raise RefusalError(400, "The end of the request is in doubt.", "bad_framing")
        self._complete = False
        self._past = False
        self._request = None
        self._continue_due = False
        if self._size:
            parts = self._parts
            request.body = parts[0] if len(parts) == 1 and not self._bulk else b"".join((self._bulk, *parts))
            self._drop_body()
        self.requests.append(request)
        if not request.keep_alive:
            self.close()
