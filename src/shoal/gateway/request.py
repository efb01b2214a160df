"""A request's head: what makes it acceptable beyond what llhttp checks, and what of it is forwarded. Without I/O."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shoal.gateway.fields import with_length, without
from shoal.gateway.inspect import RoutingFields
from shoal.gateway.keys import Key, take_credentials
from shoal.gateway.messages import WorkerSettings
from shoal.gateway.paths import Endpoint, classify
from shoal.gateway.prompts import PromptFields, prompt_fields, prompt_of
from shoal.gateway.responses import error
from shoal.gateway.trace import Trace, name_in
from shoal.gateway.upload import Upload, is_upload
from shoal.gateway.waiting import Claim
from shoal.routing.policy import Policy
from shoal.routing.prompt import NO_PROMPT, Prompt

if TYPE_CHECKING:
    from shoal.gateway.heads import KnownRequest

MAX_TARGET = 16 * 1024
"""Longest request target, bytes."""

# Fields about one connection (RFC 9110, 7.6.1), framing, and what is checked here. Found in a lower-case head that
# llhttp has accepted: it has no other line ends, no folded lines and no space in front of a colon.
_FIELDS = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|connection|keep-alive|expect|te|trailer|upgrade"
    rb"|proxy-connection|proxy-authorization|x-request-id|x-shoal-priority|x-vllm-priority):[ \t]*([^\r]*)"
)
_STAY = frozenset((b"host", b"content-length", b"transfer-encoding", b"authorization"))

_ANTHROPIC = b"/v1/messages"

_HOST = re.compile(rb"(?:[a-z0-9!$&'()*+,;=._~%-]*|\[[0-9a-f:.v]+\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#]*)(.*)", re.DOTALL)


class RefusalError(Exception):
    """A request that is not taken.

    Attributes:
        answer: what its client is told; the connection ends after it.
    """

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.answer = error(status, message, code=code)


class Manner(NamedTuple):
    """What is changed in the heads of requests before an engine gets them.

    Attributes:
        prefix: goes in front of the path.
        lines: header lines put in.
        dropped: fields taken out, in lower case.
    """

    prefix: bytes = b""
    lines: tuple[bytes, ...] = ()
    dropped: frozenset[bytes] = frozenset()


class Request(msgspec.Struct, gc=False):
    """A request whose head has been checked.

    Attributes:
        method: request method.
        target: origin-form target: path and query, as they came.
        head: request line and header lines to be forwarded, as they came, without the line end of the last.
        length: bytes of body that Content-Length announces, 0 without one.
        chunked: the body comes in chunks; it is forwarded in one piece with a Content-Length.
        http10: the client speaks HTTP/1.0: no chunks, no interim responses.
        keep_alive: the connection goes on after the answer.
        expects_continue: the client waits for a 100 before it sends the body.
        head_only: the method is HEAD.
        body: the whole body, once it is complete.
        stream: the client asked for events as they come (set when the body is inspected).
        upgrade: the client asks for a WebSocket, and `head` still says so.
        ask_ids: have engines that can give token ids with the stream, which the client did not ask for.
        priority: what a header says about it, ``b""`` without one.
        claim: its urgency, None for an ordinary one.
        fields: what its JSON body says, None for other bodies.
        work: see `shoal.routing.ask.Ask`, which a request fulfils.
        policy: picks its engine in place of the model's policy.
        plain: HTTP/1.1, no HEAD, no upgrade, no stream: what is answered may go the short way (`heads.py`).
        known: the known head that `head` was made from; None where there is none, or `head` has been changed since.
        usual: its head is known, and asks for nothing but an engine's answer to the JSON in the body.
        ask_usage: have engines end the stream with the usage, which the client did not ask for.
        credentials: the header lines that may hold an API key, where the gateway asks for one; not in `head`.
        key: the API key in them, once it is found.
        upload: its body, where that goes on as it comes; `body` stays empty then.
        id: what its client calls it (``x-request-id``), ``b""`` if nothing.
        trace: notes about its way, where it is followed.
    """

    method: bytes
    target: bytes
    head: bytes
    length: int
    chunked: bool
    http10: bool
    keep_alive: bool
    expects_continue: bool
    head_only: bool
    body: bytes = b""
    stream: bool = False
    upgrade: bool = False
    ask_ids: bool = False
    priority: bytes = b""
    claim: Claim | None = None
    ask_usage: bool = False
    credentials: bytes = b""
    key: Key | None = None
    plain: bool = False
    known: KnownRequest | None = None
    usual: bool = False
    fields: RoutingFields | None = None
    work: int = 0
    policy: Policy | None = None
    upload: Upload | None = None
    id: bytes = b""
    trace: Trace | None = None

    def session(self) -> bytes:
        """Return what the requests of one conversation or client share, see `shoal.routing.ask.Ask`."""
        fields = self._prompt_fields()
        named = fields and (fields.prompt_cache_key or fields.user)
        return (
            bytes(named)
            if named
            else self.credentials or self.header(b"authorization") or self.header(b"x-api-key")
        )

    def prompt(self) -> Prompt:
        """Return the prompt's block hashes and size, see `shoal.routing.ask.Ask`."""
        fields = self._prompt_fields()
        return (
            NO_PROMPT if fields is None else prompt_of(fields, anthropic=self.target.startswith(_ANTHROPIC))
        )

    def _prompt_fields(self) -> PromptFields | None:
        fields = self.fields
        if type(fields) is PromptFields:
            return fields
        if fields is None or not self.body:
            return None
        self.fields = found = prompt_fields(
            self.body
        )  # a second time: the model's own policy does not need them
        return found

    def header(self, name: bytes) -> bytes:
        """Return the value of the first field of this (lower-case) name, ``b""`` without one. Slow: it searches."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return b""

    def head_for(self, manner: Manner) -> bytes:
        """Return the head as an engine gets it that sits behind a path, a host name or a key of its own."""
        first = b"%b %b%b HTTP/1.1" % (self.method, manner.prefix, self.target)
        head = without(self.head, manner.dropped)
        return b"\r\n".join((first, *manner.lines)) + b"".join(head.partition(b"\r\n")[1:])

    def with_body(self, target: bytes, body: bytes) -> Request:
        """Return the same request for another target, with another body that is in one piece."""
        line = self.head.partition(b"\r\n")
        head = b"%b %b HTTP/1.1\r\n%b" % (self.method, target, line[2])
        return msgspec.structs.replace(
            self,
            target=target,
            head=with_length(head, len(body)),
            known=None,
            chunked=False,
            body=body,
            ask_ids=False,
            ask_usage=False,
        )

    def asking(self, *, ids: bool, usage: bool) -> Request:
        """Return the same request with more wishes in its JSON object.

        Args:
            ids: for token ids (vLLM's ``return_token_ids``).
            usage: for the usage at the end of the stream (OpenAI's ``stream_options.include_usage``).
        """
        body = self.body
        if usage:
            body = _with_usage(body)
        if ids:
            start = body.index(b"{") + 1
            body = body[:start] + b'"return_token_ids":true,' + body[start:]
        return self if body is self.body else self.with_body(self.target, body)


def _with_usage(body: bytes) -> bytes:
    """Return a JSON object that asks for the usage; all but its stream options stays byte for byte."""
    if b'"stream_options"' not in body:
        start = body.index(b"{") + 1
        return body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    given = msgspec.json.decode(fields.get("stream_options", b"null"))
    if given is not None and not isinstance(given, dict):
        return body  # the engine will say what it thinks of it
    # Only with the usage at the end does vLLM look at the wish for it in every chunk, so the client did not have that.
    options = (given or {}) | {"include_usage": True, "continuous_usage_stats": False}
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    return msgspec.json.encode(fields)


@functools.lru_cache(maxsize=1024)
def _matches_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _is_host(value: bytes) -> bool:
    return len(value) < 300 and _matches_host(value)


def _request_line(head: bytes, settings: WorkerSettings) -> tuple[bytes, bytes, bool]:
    """Return method, target, and whether the version is 1.0."""
    if len(head) > settings.max_header:
        raise RefusalError(
            431, f"The request head is longer than {settings.max_header} bytes.", "head_too_large"
        )
    # llhttp takes several spaces between the parts of a request line, HTTP/0.9 and HTTP/2.0.
    first = head.partition(b"\r\n")[0]
    parts = first.split(b" ")
    if len(parts) != 3:
        raise RefusalError(400, "The request line is malformed.", "bad_request")
    method, target, version = parts
    http10 = version != b"HTTP/1.1"
    if http10 and version != b"HTTP/1.0":
        raise RefusalError(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.", "http_version")
    if len(target) > MAX_TARGET:
        raise RefusalError(414, f"The request target is longer than {MAX_TARGET} bytes.", "target_too_long")
    return method, target, http10


def parse_request(head: bytes, settings: WorkerSettings) -> Request:  # noqa: PLR0912, PLR0915 one pass over the fields
    """Take a request head apart and judge it.

    Args:
        head: request line and header lines, already accepted by llhttp, without the empty line at the end.
        settings: limits.

    Returns:
        The request, without its body.

    Raises:
        RefusalError: it is not acceptable.
    """
    method, target, http10 = _request_line(head, settings)
    host: bytes | None = None
    length: bytes | None = None
    chunked = expects_continue = named = False
    priority = b""
    keep_alive = not http10
    dropped: set[bytes] = set()
    for name, value in _FIELDS.findall(head.lower()):
        if name == b"host":
            if host is not None or not _is_host(value.rstrip()):
                raise RefusalError(400, "The Host header is not valid, or there are several.", "bad_host")
            host = value
        elif name == b"content-length":
            length = value
        elif name.endswith(b"-priority"):
            if not priority or name == b"x-shoal-priority":
                priority = value.rstrip()
        elif name == b"x-request-id":
            named = True
        else:
            dropped.add(name)
            if name in (b"connection", b"proxy-connection"):
                if value == b"close":
                    keep_alive = False
                elif value != b"keep-alive":
                    tokens = {token.strip() for token in value.split(b",")}
                    if b"close" in tokens:
                        keep_alive = False
                    dropped |= tokens - _STAY
            elif name == b"transfer-encoding":
                if http10 or chunked:
                    raise RefusalError(400, "Transfer-Encoding is not possible here.", "bad_framing")
                if value.rstrip() != b"chunked":
                    raise RefusalError(501, "The only transfer coding taken is chunked.", "transfer_coding")
                chunked = True
            elif name == b"expect" and not http10:
                if value.rstrip() != b"100-continue":
                    raise RefusalError(
                        417, "The only expectation that can be met is 100-continue.", "expectation"
                    )
                expects_continue = True
    if host is None and not http10:
        raise RefusalError(400, "The request has no Host header.", "bad_host")
    size = 0
    if length is not None:
        if chunked:
            raise RefusalError(400, "A body has either a length or chunks.", "bad_framing")
        size = int(length)
        limit = settings.max_body
        if size > min(limit, settings.max_upload) and is_upload(method, target):
            limit = settings.max_upload
        if size > limit:
            raise RefusalError(413, f"The request body is longer than {limit} bytes.", "body_too_large")
    if dropped:
        head = without(head, dropped)
    if http10:
        head = b"%b %b HTTP/1.1%b" % (method, target, head[len(method) + len(target) + len(b"  HTTP/1.0") :])
    head_only = method == b"HEAD"
    request = Request(method, target, head, size, chunked, http10, keep_alive, expects_continue, head_only)
    request.plain = not http10 and not head_only
    if priority:
        request.priority = priority
    if named:
        request.id = name_in(request.header(b"x-request-id"))
    if settings.keys is not None:
        request.head, request.credentials = take_credentials(head)
    if not target.startswith(b"/"):
        _make_origin_form(request)
    return request


def _make_origin_form(request: Request) -> None:
    """Turn a target that is not a path into one (RFC 9112, 3.2)."""
    method, target = request.method, request.target
    match = _ABSOLUTE.fullmatch(target)
    if match is not None:
        authority, path = match[1], match[2]
        if not authority or not _is_host(authority.lower()):
            raise RefusalError(400, "The request target is not valid.", "bad_request")
        request.target = path if path.startswith(b"/") else b"/" + path
        request.head = request.head_for(Manner(lines=(b"host: " + authority,), dropped=frozenset((b"host",))))
    elif method != b"OPTIONS" or target != b"*":
        raise RefusalError(400, "The request target is not valid.", "bad_request")


def with_upload(request: Request) -> Request:
    """Return a request whose body goes on as it comes, if it is one of that kind. Its connection ends with it."""
    if request.length and is_upload(request.method, request.target):
        request.upload = Upload(request.length)
        request.keep_alive = request.plain = False
        request.head += b"\r\nconnection: close"  # whoever answers early need not read the rest
    return request


def asks_for_websocket(head: bytes) -> bool:
    """Whether a head that llhttp takes for an upgrade opens a WebSocket (RFC 6455, 4.1) where there may be one."""
    line, *fields = head.lower().split(b"\r\n")
    method, target, version = line.split(b" ") if line.count(b" ") == 2 else (b"", b"", b"")
    if method != b"get" or version != b"http/1.1" or classify(target) is not Endpoint.REALTIME:
        return False
    asked = [
        value.strip() for name, _, value in (field.partition(b":") for field in fields) if name == b"upgrade"
    ]
    framed = any(field.startswith((b"content-length:", b"transfer-encoding:")) for field in fields)
    return asked == [b"websocket"] and not framed


def with_upgrade(request: Request) -> Request:
    """Return a request that has lost the fields about its connection, with those that ask for a WebSocket again."""
    request.head += b"\r\nconnection: upgrade\r\nupgrade: websocket"
    request.upgrade = True
    request.plain = False
    request.keep_alive = False  # HTTP ends here, one way or the other
    return request


def without_upgrade(head: bytes) -> bytes:
    """Return a head that says the same, except that it does not ask for another protocol."""
    first, *lines = head.split(b"\r\n")
    kept = []
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            kept.append(name + b": " + b", ".join(token for token in tokens if token.lower() != b"upgrade"))
        elif name.lower() != b"upgrade":
            kept.append(line)
    return b"\r\n".join((first, *kept))
