"""The form that nearly all chunks of one stream have: the same bytes around a piece of text and some token ids.

What is true of one event of that form is true of all, so an event that has it need not be searched or decoded.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from shoal.gateway.transcript import Choice, Chunk, decode_chunk

_BEGIN = b"data: {"
_IDS = b'token_ids":['  # as a key: inside a string its quote would be escaped
_KEYS = (b'"content":"', b'"text":"')  # of chat completions and completions
CHUNK_END = b"\r\n"
"""The line end behind a chunk (RFC 9112, 7.1)."""

_decode_text = msgspec.json.Decoder(str).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode


class EventForm(NamedTuple):
    """The form of a stream's chunks.

    Attributes:
        before: the event up to its text, the quote in front of that included.
        between: from the quote behind the text up to the token ids; without ids, up to the end.
        after: from the bracket behind the ids on, with the line end behind the chunk; without ids, that alone.
        ids: there are token ids.
        rest: what the client gets from the quote behind the text on, with that line end; None: all as it came.
    """

    before: bytes
    between: bytes
    after: bytes
    ids: bool
    rest: bytes | None


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
            if _IDS in event:
                return None
            return EventForm(before + found, b'"' + rest, CHUNK_END, ids=False, rest=None)
        between, found_ids, rest = rest.partition(_IDS)
        ids, end, after = rest.partition(b"]")
        if event.count(_IDS) != 1 or _decode_ids(b"[%b]" % ids) != choice.token_ids:
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    between = b'"' + between + found_ids
    stripped = between[:-1] + b"null" + after + CHUNK_END if strip else None
    return EventForm(before + found, between, end + after + CHUNK_END, ids=True, rest=stripped)


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
