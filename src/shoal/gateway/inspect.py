"""The routing fields of a request body, and nothing else of it.

The body is forwarded byte for byte whatever is found here. Fields that are not routing fields are skipped, their
JSON syntax checked on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec


class BodyError(Exception):
    """The body cannot be what the endpoint takes; ``str(error)`` is a sentence for the client."""


class RoutingFields(msgspec.Struct, gc=False):
    """What a request says about where it wants to go.

    Attributes:
        model: id of the model, None when the body names none.
        stream: the client wants events as they come (the value as it came: engines coerce, so do not judge it).
        return_token_ids: the client wants token ids.
        echo: the client wants its prompt back.
        priority: of the request, lower goes first (as it came).
        stream_options: how it wants the stream.
    """

    model: str | None = None
    stream: object = None
    return_token_ids: object = None
    echo: object = None
    priority: object = None
    stream_options: object = None


decode_fields = msgspec.json.Decoder(RoutingFields).decode

LONG_BODY = 8 * 1024
"""Bytes of a body from which on `shortened` is worth its while."""

_LONG_STRING = 4 * 1024  # bytes of a string that are worth leaving out
_LEFT_OUT = b"\\u0000"  # a character that no name has

# Without quoted pairs: browsers write %22 for a quote (WHATWG), and so every input takes linear time.
_PARAMETER = re.compile(rb""";\s*([a-z*-]+)\s*=\s*(?:"([^"]*)"|([^\s;]*))""", re.IGNORECASE)
_MAX_FIELD = 4096  # bytes of a form field that are looked at, head included
_MAX_FIELDS = 100  # of a form


def _parameters(value: bytes) -> dict[bytes, bytes]:
    """Return the parameters of a header value such as ``form-data; name="x"``; the first of a name counts."""
    found: dict[bytes, bytes] = {}
    for name, quoted, bare in _PARAMETER.findall(value):
        found.setdefault(name.lower(), quoted or bare)
    return found


def shortened(body: bytes) -> bytes:
    """Return a JSON object with the routing fields of `body`, but for a long string in its middle, if there is one.

    Most of a long body is one string: a document, an image. To find its end takes a tenth of the time of reading it.
    What is left out may hold what JSON does not allow in a string: who gets the body says so.

    A routing field that is left out becomes one that nothing is named.
    """
    middle = len(body) // 2
    start = body.rfind(b'"', 0, middle) + 1
    end = body.find(b'"', middle)
    if end - start < _LONG_STRING or body.startswith(b"\\", end - 1):
        return body
    before = body[:start]
    # A string is open behind an odd number of quotes, those left out that are part of one.
    plain = before.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in before else before
    return before + _LEFT_OUT + body[end:] if plain.count(b'"') % 2 else body


def json_fields(body: bytes, decode: Callable[[bytes], RoutingFields] = decode_fields) -> RoutingFields:
    """Return the routing fields of a JSON body; an empty body has none.

    Args:
        body: the whole body.
        decode: decodes JSON to `RoutingFields`, or to a kind of it with more fields.

    Raises:
        BodyError: it is no JSON object, or its `model` no string.
    """
    if not body:
        return RoutingFields()
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise BodyError(f"The request body does not fit: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BodyError(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise BodyError("The request body is nested too deeply.") from None


def form_fields(content_type: bytes, body: bytes) -> RoutingFields:
    """Return the routing fields of a multipart/form-data body (RFC 7578).

    Args:
        content_type: value of the request's Content-Type.
        body: the whole body.

    Raises:
        BodyError: it is no multipart/form-data, or `model` is no UTF-8.
    """
    boundary = _parameters(content_type).get(b"boundary")
    if not boundary or not content_type.lower().startswith(b"multipart/form-data"):
        raise BodyError("This endpoint takes multipart/form-data with a boundary.")
    delimiter = b"--" + boundary
    found: dict[bytes, bytes] = {}
    start = body.find(delimiter)
    for _ in range(_MAX_FIELDS):
        if start < 0:
            break
        start += len(delimiter)
        end = body.find(b"\r\n" + delimiter, start)
        head, blank, value = body[start : min(end, start + _MAX_FIELD)].partition(b"\r\n\r\n")
        if end < 0 or not blank:
            break
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-disposition:"):
                found.setdefault(_parameters(line).get(b"name", b""), value)
        start = end + 2
    try:
        model = found[b"model"].decode() if b"model" in found else None
    except UnicodeDecodeError:
        raise BodyError("The field `model` is not UTF-8.") from None
    return RoutingFields(model, found.get(b"stream", b"").strip().lower() in (b"true", b"1"))
