"""The lines of a batch's input: read one by one, however many and long, and judged. Pure but for the reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

_LONGEST_ID = 512
_SHOWN = 60
_RESPONSES = "/v1/responses"
_BACKGROUND = "A batch waits for answers; one of `background` would be without them."


class Line(msgspec.Struct, frozen=True):
    """A request of a batch.

    Attributes:
        number: of the line, from 1.
        custom_id: the client's name for it.
        body: of the request, JSON as it came.
    """

    number: int
    custom_id: str
    body: bytes


class BadLine(msgspec.Struct, frozen=True):
    """A line that is no request.

    Attributes:
        number: of the line, from 1.
        code: for programs.
        reason: for people.
        custom_id: if it has one.
        param: the field that is wrong.
    """

    number: int
    code: str
    reason: str
    custom_id: str | None = None
    param: str | None = None


class _Fields(msgspec.Struct):
    custom_id: object = None
    method: object = None
    url: object = None
    body: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    stream: object = None
    background: object = None


_decode = msgspec.json.Decoder(_Fields).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def numbered(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file that are not empty, with their numbers from 1; None for one that is too long.

    Args:
        file: opened for reading bytes, at its beginning.
        longest: bytes a line may have; of a longer one no more than that is ever held.
    """
    number = 0
    while data := file.readline(longest + 1):
        number += 1
        if len(data) > longest and not data.endswith(b"\n"):
            while (data := file.readline(longest)) and not data.endswith(b"\n"):
                pass
            yield number, None
        elif data := data.strip():
            yield number, data


def parse(number: int, data: bytes | None, endpoint: str) -> Line | BadLine:
    """Return the request in a line, or what is wrong with it.

    Args:
        number: of the line.
        data: the line, None if it is too long.
        endpoint: that requests of the batch go to.
    """
    if data is None:
        return BadLine(number, "line_too_long", "It is longer than a request may be.")
    try:
        fields = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return BadLine(number, "invalid_json", f"It is not a JSON object: {error}.")
    custom_id = fields.custom_id
    if not isinstance(custom_id, str) or not custom_id:
        return BadLine(number, "missing_custom_id", "It has no `custom_id`.", None, "custom_id")
    if len(custom_id) > _LONGEST_ID:
        text = f"Its `custom_id` is longer than {_LONGEST_ID} characters."
        return BadLine(number, "invalid_custom_id", text, custom_id[:_LONGEST_ID], "custom_id")
    if fields.method not in ("POST", None):
        text = f"Its `method` is {_shown(fields.method)}; it must be POST."
        return BadLine(number, "invalid_method", text, custom_id, "method")
    if fields.url != endpoint:
        text = f"Its `url` is {_shown(fields.url)}; the batch is for {endpoint}."
        return BadLine(number, "invalid_url", text, custom_id, "url")
    try:
        body = _decode_body(fields.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return BadLine(number, "invalid_body", "Its `body` is not a JSON object.", custom_id, "body")
    if body.stream:
        return BadLine(number, "stream_not_possible", "A batch does not stream.", custom_id, "body.stream")
    if body.background and endpoint == _RESPONSES:
        return BadLine(number, "background_not_possible", _BACKGROUND, custom_id, "body.background")
    return Line(number, custom_id, bytes(fields.body))


def custom_id_of(data: bytes | None) -> str | None:
    """Return the `custom_id` of a line, None if it has none."""
    if data is None:
        return None
    try:
        found = _decode(data).custom_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, str) and found else None


def json_error(data: bytes | None) -> str | None:
    """Return why a line is not a JSON object, None if it is one."""
    if data is None:
        return "it is too long"
    try:
        _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return str(error)
    return None


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode() if value is not None else "missing"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
