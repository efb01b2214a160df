"""Answers that a worker gives itself: OpenAI-style errors and small JSON documents."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
}


class Answer(msgspec.Struct, frozen=True):
    """A complete response, except for what depends on the connection.

    Attributes:
        status: HTTP status code.
        body: the body.
        headers: header lines, without line ends, besides those every answer gets.
        content_type: media type of the body.
    """

    status: int
    body: bytes
    headers: tuple[bytes, ...] = ()
    content_type: bytes = b"application/json"

    def render(self, *, date: bytes, close: bool, head_only: bool = False) -> bytes:
        """Return the bytes to send.

        Args:
            date: value of the Date header.
            close: say that the connection closes after this answer.
            head_only: the request was HEAD, so leave out the body.
        """
        lines = [
            b"HTTP/1.1 %d %b" % (self.status, _REASONS[self.status].encode()),
            b"date: " + date,
            b"content-type: " + self.content_type,
            b"content-length: %d" % len(self.body),
            *self.headers,
        ]
        if close:
            lines.append(b"connection: close")
        return b"\r\n".join((*lines, b"", b"" if head_only else self.body))


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _Body(msgspec.Struct):
    error: _Error


_encode = msgspec.json.Encoder().encode


def message_of(answer: Answer) -> str:
    """Return the sentence for people in an answer that `error` has made."""
    return msgspec.json.decode(answer.body, type=_Body).error.message


def error(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    kind: str | None = None,
    headers: tuple[bytes, ...] = (),
) -> Answer:
    """Return an error in the form of OpenAI's API, which its clients turn into typed exceptions.

    Args:
        status: HTTP status code, 400 to 599.
        message: a sentence for people.
        code: for programs, such as ``model_not_found``.
        param: the request field that is wrong.
        kind: the error's `type`; by default what OpenAI has for the status.
        headers: further header lines, such as Retry-After.
    """
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return Answer(status, _encode({"error": _Error(message, kind, param, code)}), headers)
