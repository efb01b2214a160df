"""The form that nearly all chunks of one stream have: the same bytes around a piece of text and some token ids.

What is true of one event of that form is true of all, so an event that has it need not be searched or decoded.
"""

from __future__ import annotations

import msgspec

from shoal.gateway.events import MAX_CHUNK
from shoal.gateway.transcript import Choice, Chunk, decode_chunk

_BEGIN = b"data: {"
_IDS = b'token_ids":['  # as a key: inside a string its quote would be escaped
_KEYS = (b'"content":"', b'"text":"')  # of chat completions and completions
_CHUNK_END = b"\r\n"

_SIZE_LINES = [b"%x\r\n" % size for size in range(MAX_CHUNK + 1)]

_decode_text = msgspec.json.Decoder(str).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode


class EventForm:
    """The form of a stream's chunks.

    Args:
        before: the event up to its text, the quote in front of that included.
        between: from the quote behind the text up to the token ids; without ids, up to the end.
        after: from the bracket behind the ids on, b"" without ids.
        strip: the client did not ask for the ids: it gets null in their place.
    """

    __slots__ = (
        "_after",
        "_after_size",
        "_before",
        "_between",
        "_between_size",
        "_ids",
        "_rest",
        "_rest_size",
        "_size",
    )

    def __init__(self, before: bytes, between: bytes, after: bytes, strip: bool) -> None:
        self._before = before
        self._size = len(before)
        self._between = between
        self._between_size = len(between)
        self._after = after
        self._after_size = len(after)
        self._ids = bool(after)
        rest = between[:-1] + b"null" + after[1:] if after and strip else b""
        self._rest_size = len(rest)
        self._rest = rest + _CHUNK_END

    def match(self, event: bytes) -> tuple[bytes, bytes | None, bytes] | None:
        """Return text and ids of an event, as its JSON has them, and the chunk for the client; None if it is another.

        Args:
            event: of `MAX_CHUNK` bytes at most.
        """
        # A string without a quote in it: one with an escaped quote does not go on with `between`, which has quotes.
        quote = event.find(b'"', self._size)
        if not event.startswith(self._before) or not event.startswith(self._between, quote):
            return None
        start = quote + self._between_size
        ids = None
        if self._ids:
            end = event.find(b"]", start)
            if end + self._after_size != len(event) or not event.endswith(self._after):
                return None
            ids = event[start:end]
        elif start != len(event):
            return None
        if self._rest_size:
            chunk = _SIZE_LINES[quote + self._rest_size] + event[:quote] + self._rest
        else:
            chunk = _SIZE_LINES[len(event)] + event + _CHUNK_END
        return event[self._size : quote], ids, chunk


def form_of(event: bytes, strip: bool) -> EventForm | None:
    """Return the form of one whole event as it comes from an engine; None if it may say more than a piece of text.

    Args:
        event: of a stream of chat completions or completions.
        strip: the client did not ask for token ids.
    """
    if event.find(b"\n") != len(event) - 2 or not event.startswith(_BEGIN):
        return None
    try:
        chunk = decode_chunk(event[6:])
        if not _is_plain(chunk):
            return None
        choice = chunk.choices[0]
        key = _KEYS[choice.delta is None]
        before, found, rest = event.partition(key)
        if not found or key in rest:
            return None
        text, _, rest = rest.partition(b'"')
        if _decode_text(b'"%b"' % text) != choice.content:
            return None
        if choice.token_ids is None:
            return EventForm(before + found, b'"' + rest, b"", strip) if _IDS not in event else None
        between, found_ids, rest = rest.partition(_IDS)
        ids, end, after = rest.partition(b"]")
        if event.count(_IDS) != 1 or _decode_ids(b"[%b]" % ids) != choice.token_ids:
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return EventForm(before + found, b'"' + between + found_ids, end + after, strip)


def _is_plain(chunk: Chunk) -> bool:
    """Whether a chunk has text in one choice, perhaps token ids, and nothing else that counts."""
    if (
        len(chunk.choices) != 1
        or chunk.usage is not None
        or chunk.error is not None
        or chunk.prompt_token_ids
    ):
        return False
    choice, delta = chunk.choices[0], chunk.choices[0].delta
    like = Choice(delta=delta, text=choice.text, token_ids=choice.token_ids)
    if choice != like or (delta is None) == (choice.text is None):
        return False
    return delta is None or (
        delta.role is None
        and delta.content is not None
        and delta.reasoning is None
        and delta.reasoning_content is None
        and delta.tool_calls is None
    )
