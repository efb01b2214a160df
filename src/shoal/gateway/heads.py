"""Heads that are known: those that come again byte for byte, apart from the digits of Content-Length.

Clients and engines say nearly the same head with every message. One that llhttp and this gateway have accepted is
remembered as the bytes in front of the digits and those behind them, blank line included. A head that has just these
bytes around any digits differs in nothing but its length, so what was found out about it holds, and it is not judged
again. Only heads whose framing is a Content-Length, and which ask for nothing special, are remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from shoal.gateway.messages import WorkerSettings
from shoal.gateway.paths import Endpoint, classify
from shoal.gateway.request import Manner, Request

MAX_KNOWN = 512
"""Request heads that a worker remembers."""

MAX_SIZE = 4096
"""Longest head that is remembered, bytes."""

MAX_DIGITS = 10
"""Most digits of a Content-Length that is taken without asking llhttp: their number does not overflow."""

_MAX_MANNERS = 64  # ways to change a head for engines, of each head that is known
_MARK = b"ength: "  # of Content-Length, however it is capitalised
_FIELD = b"\r\ncontent-length: "
_HEAD_END = b"\r\n\r\n"


def split_at_length(head: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Return what is in front of the digits of Content-Length, the digits, and what follows; None if that is not plain.

    The field is guessed by its end. Who remembers a head has to make sure that it was the right one: `is_at_length`.

    Args:
        head: request line or status line and header lines, without the line end of the last.
    """
    start = head.find(_MARK) + len(_MARK)
    end = head.find(b"\r", start)
    if end < 0:
        end = len(head)
    digits = head[start:end]
    if len(digits) > MAX_DIGITS or not digits.isdigit():
        return None
    return head[:start], digits, head[end:]


def is_at_length(head: bytes, start: int) -> bool:
    """Whether the value of the one Content-Length of `head` begins at `start`."""
    lower = head.lower()
    return lower.count(_FIELD[:-1]) == 1 and lower.find(_FIELD) + len(_FIELD) == start


class KnownHead:
    """A head that was accepted, as a pattern: anything goes for the digits of its Content-Length.

    Args:
        before: what comes in front of the digits.
        after: what comes behind them, without the empty line.
        forwarded: the head as it is forwarded, in the same two parts; what is added to it may be in them.

    Attributes:
        before: the same.
        before_size: its length, bytes.
        after: what comes behind the digits, up to the end of the empty line.
        after_size: its length, bytes.
        head_before: what is forwarded in front of the digits.
        head_after: what is forwarded behind them.
    """

    __slots__ = ("after", "after_size", "before", "before_size", "head_after", "head_before")

    def __init__(self, before: bytes, after: bytes, forwarded: tuple[bytes, bytes]) -> None:
        self.before = before
        self.before_size = len(before)
        self.after = after + _HEAD_END
        self.after_size = len(self.after)
        self.head_before, self.head_after = forwarded


class KnownRequest(KnownHead):
    """The head of a request.

    Args:
        before: as of `KnownHead`.
        after: as of `KnownHead`.
        forwarded: as of `KnownHead`.
        like: a request with this head, as it was when it had been judged.
    """

    __slots__ = ("_copy", "_made")

    def __init__(self, before: bytes, after: bytes, forwarded: tuple[bytes, bytes], like: Request) -> None:
        super().__init__(before, after, forwarded)
        like = copy(like)
        special = like.priority or like.id or like.method != b"POST"
        like.usual = not special and classify(like.target) is Endpoint.JSON
        self._copy: Callable[[], Request] = like.__copy__  # type: ignore[attr-defined] # msgspec has it
        self._made: dict[Manner, tuple[bytes, bytes]] = {}  # the head as engines get it, in two parts

    def request(self, digits: bytes, length: int, body: bytes) -> Request:
        """Return the request that has this head.

        Args:
            digits: of its Content-Length, as they came.
            length: their value.
            body: its body, as far as it is there.
        """
        request = self._copy()
        request.head = self.head_before + digits + self.head_after
        request.length = length
        request.body = body
        request.known = self
        return request

    def head_for(self, manner: Manner, request: Request) -> bytes:
        """Return what `Request.head_for` does, for a request that has this head."""
        made = self._made.get(manner)
        if made is None:
            head = request.head_for(manner)
            before, _, after = split_at_length(head) or (head, b"", b"")
            if not is_at_length(head, len(before)):
                return head
            if len(self._made) >= _MAX_MANNERS:
                self._made.clear()
            made = self._made[manner] = (before, after)
        return made[0] + b"%d" % request.length + made[1]


class KnownRequests:
    """The request heads that one worker knows.

    A head is remembered when it comes for the second time, since some clients never send the same twice.

    Args:
        settings: limits; what is remembered keeps within them.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.max_body = settings.max_body
        """Bytes of a body that a known head may announce."""
        self._max_size = min(MAX_SIZE, settings.max_header - MAX_DIGITS)
        self._known: dict[tuple[bytes, bytes], KnownRequest] = {}
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, head: bytes) -> tuple[KnownRequest, Request] | None:
        """Return what is known of a head and its request, without its body; None if it has to be judged.

        Args:
            head: request line and header lines, without the empty line at the end.
        """
        if not self._known:
            return None
        parts = split_at_length(head)
        if parts is None:
            return None
        before, digits, after = parts
        known = self._known.get((before, after))
        if known is None:
            return None
        length = int(digits)
        return (known, known.request(digits, length, b"")) if length <= self.max_body else None

    def learn(self, head: bytes, request: Request) -> None:
        """Note a head that was accepted, if it is of the kind that is remembered.

        Args:
            head: as it came, without the empty line at the end.
            request: what was made of it.
        """
        parts = split_at_length(head)
        if parts is None or len(head) > self._max_size or not _is_plain(head, request):
            return
        before, digits, after = parts
        key = (before, after)
        number = hash(key)
        if number not in self._seen:
            if len(self._seen) >= 2 * MAX_KNOWN:
                self._seen.clear()
            self._seen.add(number)
            return
        forwarded = split_at_length(request.head)
        if forwarded is None or forwarded[1] != digits or not is_at_length(head, len(before)):
            return
        if not is_at_length(request.head, len(forwarded[0])):
            return
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[key] = KnownRequest(before, after, (forwarded[0], forwarded[2]), request)


def _is_plain(head: bytes, request: Request) -> bool:
    """Whether nothing is special about a request but, at most, the length of its body."""
    special = (
        request.chunked or request.http10 or request.expects_continue or request.head_only or request.upgrade
    )
    as_it_came = head.startswith(b"%b %b HTTP/1.1\r\n" % (request.method, request.target))
    return as_it_came and request.keep_alive and request.length > 0 and not special


class KnownResponse:
    """The response head that an engine gives at present: it changes with the date, once a second.

    Args:
        line: a header line to add to it, with a line end in front.

    Attributes:
        known: it, with `line`; None when there is none.
    """

    __slots__ = ("_line", "_seen", "known")

    def __init__(self, line: bytes) -> None:
        self._line = line
        self._seen = 0
        self.known: KnownHead | None = None

    def learn(self, head: bytes, forwarded: bytes) -> None:
        """Note the head of a response of known length and status 200, behind which the connection stays open.

        Args:
            head: as it came, without the empty line at the end.
            forwarded: as it is forwarded.
        """
        parts = split_at_length(head)
        if parts is None or len(head) > MAX_SIZE:
            return
        before, digits, after = parts
        number = hash((before, after))
        if number != self._seen:  # as with requests: the second time is the one
            self._seen = number
            return
        made = split_at_length(forwarded)
        if made is None or made[1] != digits or not is_at_length(head, len(before)):
            return
        if is_at_length(forwarded, len(made[0])):
            self.known = KnownHead(before, after, (made[0], made[2] + self._line + _HEAD_END))
