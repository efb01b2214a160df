"""The canonical prompt of a request: the bytes by which routing compares what requests have in common.

They are the JSON text of what the model gets to read, as it came and in the order in which chat templates put it:
tools, system prompt, messages. The last bracket is left off, so that the next turn of a conversation, which repeats all
of it and adds to it, begins with the same bytes. Two things are not taken as they came:

- data after ``;base64,`` (images, sound) counts as one piece, by its hash: an image is worth about as many tokens as
  two kilobytes of text, whatever the size of its file;
- ``cache_control``, which Anthropic's clients move on to the newest message with each turn and vLLM does not read, is
  left out.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from shoal.gateway.inspect import RoutingFields
from shoal.routing.prompt import NO_PROMPT, Prompt, chain

_NONE: Final = msgspec.Raw()


class PromptFields(RoutingFields, gc=False):
    """The routing fields with those that make up the prompt or say whose it is, as they came.

    Attributes:
        tools: of chat completions, messages and responses.
        system: Anthropic's system prompt.
        instructions: the system prompt of responses.
        messages: of chat completions and messages.
        prompt: of completions: text, token ids, or a list of them.
        input: of responses: text or a list of items.
        cache_salt: keeps caches apart (vLLM).
        prompt_cache_key: what requests with a common prefix share (OpenAI).
        user: who asks (OpenAI).
    """

    tools: msgspec.Raw = _NONE
    system: msgspec.Raw = _NONE
    instructions: msgspec.Raw = _NONE
    messages: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE
    cache_salt: msgspec.Raw = _NONE
    prompt_cache_key: msgspec.Raw = _NONE
    user: msgspec.Raw = _NONE


_decode = msgspec.json.Decoder(PromptFields).decode

_DATA = b";base64,"
_IMAGE = 2048 // 8  # times a hash is repeated to stand for an image
_LONGEST = (
    8 * 1024 * 1024
)  # bytes that are searched for data: beyond it, what a prompt is worth is not in doubt
_LONG = 512  # bytes of data that are worth a hash
_CLOSING = b'"]'
_find_data = re.compile(rb";base64,").search  # twice as fast as `bytes.find`
_marks = re.compile(rb'"cache_control"\s*:\s*(?:null|\{[^{}]*\})\s*(,?\s*)').finditer


def prompt_fields(body: bytes) -> PromptFields:
    """Return the fields of a JSON object.

    Raises:
        msgspec.MsgspecError: it is none.
        UnicodeDecodeError: it is no UTF-8.
        RecursionError: it is nested too deeply.
    """
    return _decode(body)


def prompt_of(fields: PromptFields, *, anthropic: bool = False) -> Prompt:
    """Return the prompt of a request.

    Args:
        fields: of its body.
        anthropic: it is one of Anthropic's API, which may have marks for the cache in it.
    """
    parts: list[bytes | memoryview] = [
        memoryview(part) for part in (fields.tools, fields.system, fields.instructions) if part
    ]
    if last := fields.messages or fields.prompt or fields.input:
        view = memoryview(last)
        parts.append(view[:-1] if view[-1] in _CLOSING else view)
    if not parts:
        return NO_PROMPT
    if sum(map(len, parts)) > _LONGEST:
        parts = [b"\n".join(parts)[:_LONGEST]]
    # Of a single part no copy is made: half of the time would go into it.
    text = parts[0] if len(parts) == 1 else b"\n".join(parts)
    if _find_data(text):
        text = _without_data(bytes(text))
    if anthropic:
        text = _without_marks(bytes(text))
    seed = xxh3_64_intdigest((fields.model or "").encode("utf-8", "surrogatepass"))
    if fields.cache_salt:
        seed = xxh3_64_intdigest(fields.cache_salt, seed)
    return chain(text, seed)


def _without_marks(text: bytes) -> bytes:
    """Return the text without the members ``cache_control`` of objects, as if they had never been there."""
    parts: list[bytes] = []
    start = 0
    for mark in _marks(text):
        before = text[start : mark.start()].rstrip()
        if before.endswith(b","):
            parts.append(before[:-1] + mark[1])  # its own comma goes, the one behind it stays
        else:
            parts.append(before)
        start = mark.end()
    parts.append(text[start:])
    return b"".join(parts)


def _without_data(text: bytes) -> bytes:
    """Return the text with a hash in the place of each piece of data."""
    parts: list[bytes] = []
    start = 0
    while (found := text.find(_DATA, start)) >= 0:
        begin = found + len(_DATA)
        end = text.find(b'"', begin)
        if end < 0:
            break
        parts.append(text[start:begin])
        data = text[begin:end]
        parts.append(xxh3_64_digest(data) * _IMAGE if len(data) > _LONG else data)
        start = end
    parts.append(text[start:])
    return b"".join(parts)
