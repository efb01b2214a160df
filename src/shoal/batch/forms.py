"""Reads multipart/form-data as it comes (RFC 7578): small fields are kept, the file goes on piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import Message

import python_multipart
from python_multipart.exceptions import MultipartParseError

from shoal.batch.errors import ApiError

_MOST_FIELD = 64 * 1024  # bytes of a field that is no file
_MOST_FIELDS = 32


class Form:
    """The fields of a form, while it is being read.

    Attributes:
        fields: those that are no file, by name.
        filename: of the file; None while none has come.
    """

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None


Event = tuple[str, bytes]


async def read_form(  # noqa: PLR0912 one case for each thing that comes
    content_type: str,
    body: AsyncIterator[bytes],
    form: Form,
    on_field: Callable[[str, str], None],
    on_data: Callable[[bytes], Awaitable[None]],
) -> None:
    """Read a form with one file in it, called ``file``, to its end.

    Args:
        content_type: of the request.
        body: of the request.
        form: filled as the form is read.
        on_field: called with name and value of each field that is no file, when it is complete.
        on_data: called with each piece of the file.

    Raises:
        ApiError: it is no such form.
    """
    reader = _Reader(_boundary(content_type))
    name, value = "", b""
    try:
        async for piece in body:
            for kind, data in reader.feed(piece):
                if kind == "part":
                    name, filename = _disposition(data)
                    value = b""
                    if name == "file":
                        if form.filename is not None:
                            raise ApiError(400, "The form has two files.", "invalid_form", "file")
                        form.filename = filename or "upload"
                elif kind == "data":
                    if name == "file":
                        await on_data(data)
                    else:
                        value += data
                        if len(value) > _MOST_FIELD:
                            raise ApiError(400, f"The field {name[:50]!r} is too long.", "invalid_form")
                elif name != "file":
                    form.fields[name] = text = value.decode("utf-8", "replace")
                    if len(form.fields) > _MOST_FIELDS:
                        raise ApiError(400, "The form has too many fields.", "invalid_form")
                    on_field(name, text)
    except MultipartParseError as error:
        raise ApiError(400, f"The body is not proper multipart/form-data: {error}.", "invalid_form") from None
    if not reader.complete:
        raise ApiError(400, "The form broke off before its end.", "invalid_form")


class _Reader:
    """Turns the parser's calls into a list of what happened, since what is to be done about it takes time."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[Event] = []
        self._name = self._value = b""
        self._header = b""
        self.complete = False
        self._parser = python_multipart.MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._content,
                "on_header_end": self._end_header,
                "on_headers_finished": lambda: self._events.append(("part", self._header)),
                "on_part_data": lambda data, start, end: self._events.append(("data", data[start:end])),
                "on_part_end": lambda: self._events.append(("end", b"")),
                "on_end": self._finish,
            },
        )

    def feed(self, piece: bytes) -> list[Event]:
        if piece:
            self._parser.write(piece)
        events, self._events = self._events, []
        return events

    def _begin(self) -> None:
        self._header = self._name = self._value = b""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._header = self._value
        self._name = self._value = b""

    def _finish(self) -> None:
        self.complete = True


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        text = "A file is sent as multipart/form-data, with the fields `purpose` and `file`."
        raise ApiError(400, text, "invalid_form")
    return boundary.encode("latin-1", "replace")


def _disposition(value: bytes) -> tuple[str, str]:
    """Return the name of a part and of its file, "" for none."""
    message = Message()
    message["content-disposition"] = value.decode("utf-8", "replace").replace("\n", " ").replace("\r", " ")
    name = message.get_param("name", header="content-disposition")
    filename = message.get_filename()
    return str(name) if isinstance(name, str) else "", (filename or "").rpartition("/")[2]
