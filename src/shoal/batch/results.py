"""The lines of a batch's output and error files. Each says by its id which line of the input it belongs to.

The two files are the only account of what is done: whoever has them can go on where they end. A line that is cut off,
as by the end of a process, has never been.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from shoal.batch.digests import Bits
from shoal.batch.lines import BadLine, Line

_ID = re.compile(rb'\{"id":"batch_req_[0-9a-z]+_([0-9]+)",')
_BATCH = "batch_"
_PIECE = 1 << 20


class Usage(msgspec.Struct):
    """Tokens that an answer has taken, by either of OpenAI's names."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens in and out."""
        return (
            (self.prompt_tokens or 0) + (self.input_tokens or 0),
            (self.completion_tokens or 0) + (self.output_tokens or 0),
        )


class _Answer(msgspec.Struct):
    usage: Usage | None = None
    id: object = None


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct):
    code: str
    message: str
    param: str | None
    line: int


class _Result(msgspec.Struct):
    id: str
    custom_id: str | None
    response: _Response | None
    error: _Error | None


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(_Answer).decode


def usage_of(body: bytes) -> tuple[int, int]:
    """Return the tokens in and out that an answer names, 0 where it names none."""
    try:
        usage = _decode_answer(body).usage
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0, 0
    return usage.tokens if usage is not None else (0, 0)


def answered(batch: str, line: Line, status: int, request_id: str, body: bytes) -> bytes:
    """Return the line for an answer: of the output file if its status is 2xx, else of the error file.

    Args:
        batch: id of the batch.
        line: the request.
        status: HTTP status of the answer.
        request_id: names the request in the logs of the engine; if it is "", the answer's own id does.
        body: of the answer.
    """
    response = _Response(status, request_id or _id_in(body), _one_line(body))
    error = None
    if not 200 <= status < 300:
        error = _Error(
            "request_failed", _message(body) or f"The answer has status {status}.", None, line.number
        )
    return _encode(_Result(_id(batch, line.number), line.custom_id, response, error)) + b"\n"


def refused(batch: str, line: BadLine) -> bytes:
    """Return the line of the error file for a line that is no request."""
    error = _Error(line.code, f"Line {line.number}: {line.reason}", line.param, line.number)
    return _encode(_Result(_id(batch, line.number), line.custom_id, None, error)) + b"\n"


def done(path: Path, numbers: Bits, most: int | None = None) -> tuple[int, int, int, int]:
    """Add the numbers of the input lines whose results a file has; return its good bytes, how many, and their tokens.

    Args:
        path: output or error file, not there if it is empty.
        numbers: gets them. A result whose number is there already does not count, nor does anything behind it.
        most: bytes to look at; None for all.
    """
    good = count = tokens_in = tokens_out = 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0, 0, 0, 0
    with file:
        for data in file:
            match = _ID.match(data)
            if match is None or not data.endswith(b"}\n") or (most is not None and good + len(data) > most):
                break
            if not numbers.add(int(match[1])):
                break
            good += len(data)
            count += 1
            used = usage_in(data)
            tokens_in += used[0]
            tokens_out += used[1]
    return good, count, tokens_in, tokens_out


class _Kept(msgspec.Struct):
    response: _KeptResponse | None = None


class _KeptResponse(msgspec.Struct):
    body: msgspec.Raw = msgspec.Raw(b"null")


_decode_kept = msgspec.json.Decoder(_Kept).decode


def usage_in(data: bytes) -> tuple[int, int]:
    """Return the tokens in and out that a line of an output file names."""
    if b'"usage"' not in data:
        return 0, 0
    try:
        response = _decode_kept(data).response
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0, 0
    return usage_of(response.body) if response is not None else (0, 0)


def _id_in(body: bytes) -> str:
    try:
        found = _decode_answer(body).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


def _id(batch: str, number: int) -> str:
    return f"batch_req_{batch.removeprefix(_BATCH)}_{number}"


def _one_line(body: bytes) -> msgspec.Raw:
    """Return JSON without line ends; as text in quotes if it is no JSON."""
    try:
        body.decode()  # which the decoder leaves to whoever reads the text
        if b"\n" not in body and b"\r" not in body:
            msgspec.json.decode(body, type=msgspec.Raw)
            return msgspec.Raw(body)
        return msgspec.Raw(_encode(msgspec.json.decode(body)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw(_encode(body.decode("utf-8", "replace")))


class _Failure(msgspec.Struct):
    error: _FailureText | None = None


class _FailureText(msgspec.Struct):
    message: str | None = None


def _message(body: bytes) -> str | None:
    try:
        error = msgspec.json.decode(body, type=_Failure).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return error.message if error is not None else None
