"""The engines' own usage numbers, found in the bytes of answers that pass through. Answers are not parsed for it.

Inside JSON's strings a quote is escaped, so ``"usage"`` with bare quotes is a key, wherever it stands.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from shoal.gateway.events import Dechunker

_KEY = b'"usage"'
_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_LONGEST = 1024  # bytes of a usage object, its key included
_MOST = 10_000_000  # tokens that one answer can be believed to have taken
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]


class Usage(
    msgspec.Struct,
    frozen=True,
    gc=False,
    rename={"prompt": "prompt_tokens", "completion": "completion_tokens"},
):
    """What a request has taken, in tokens. It can be decoded from the usage object of OpenAI's completions.

    Attributes:
        prompt: of its prompt.
        completion: of its answer.
    """

    prompt: _Count
    completion: _Count


class _Numbers(msgspec.Struct, gc=False):
    """A usage object of OpenAI's APIs (completions, embeddings; responses) or Anthropic's."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None


_decode_usual = msgspec.json.Decoder(Usage).decode
_decode = msgspec.json.Decoder(_Numbers).decode


def _object_at(data: bytes, start: int) -> bytes | None:
    """Return the JSON object that begins at `start` and holds no strings with braces; None if it does not end."""
    end = start
    while (end := data.find(b"}", end, start + _LONGEST) + 1) > 0:
        text = data[start:end]
        if text.count(b"{") == text.count(b"}"):
            return text
    return None


def last_usage(data: bytes, before: Usage | None = None) -> Usage | None:
    """Return the numbers of the last usage object that is complete in `data`.

    Args:
        data: JSON, or events with JSON, or a piece of them.
        before: what to return where there is none; also what it leaves open is taken from here.
    """
    end = len(data)
    while (at := data.rfind(_KEY, 0, end)) >= 0:
        start = at + len(_KEY) + 1
        usual = data[start : data.find(b"}", start) + 1]
        if usual.count(b"{") == 1 and data.startswith(b":{", start - 1):  # as vLLM writes it nearly always
            try:
                return _decode_usual(usual)
            except msgspec.MsgspecError:
                pass
        match = _OBJECT.match(data, at)
        text = _object_at(data, match.end() - 1) if match else None
        if text is not None:
            try:
                return _usage_of(_decode(text), before)
            except msgspec.MsgspecError:
                return before
        end = at
    return before


def _usage_of(numbers: _Numbers, before: Usage | None) -> Usage:
    prompt = numbers.input_tokens if numbers.prompt_tokens is None else numbers.prompt_tokens
    completion = numbers.output_tokens if numbers.completion_tokens is None else numbers.completion_tokens
    if prompt is None and completion is None:
        prompt = numbers.total_tokens
    # Anthropic's streams say the one at the beginning and the other at the end.
    prompt = (before.prompt if before else 0) if prompt is None else prompt
    completion = (before.completion if before else 0) if completion is None else completion
    return Usage(min(max(prompt, 0), _MOST), min(max(completion, 0), _MOST))


class BodyWatch:
    """Finds the usage in a body as it passes, whatever its size.

    Args:
        chunked: the body comes in chunks.
    """

    __slots__ = ("_chunks", "_seam", "usage")

    def __init__(self, chunked: bool) -> None:
        self.usage: Usage | None = None
        self._chunks = Dechunker() if chunked else None
        self._seam = b""

    def see(self, data: bytes) -> None:
        """Look at the next bytes of the body."""
        if self._chunks is not None:
            data = self._chunks.feed(data)
        if self._seam:
            data = self._seam + data
        self.usage = last_usage(data, self.usage)
        self._seam = data[-_LONGEST:]


class StreamWatch:
    """Finds the usage in a stream of events, and takes the event with it out where its client did not ask for it.

    Args:
        whole: events carry the usage up to their own end, as in completions, and not parts of it, as Anthropic's do.

    Attributes:
        pieces: how often events have come, which is about once for each token.
    """

    __slots__ = ("_found", "_last", "_repeated", "_strip", "_whole", "pieces")

    def __init__(self, whole: bool) -> None:
        self.pieces = 0
        self._whole = whole
        self._strip = False
        self._repeated = 0
        self._last = b""  # the last events that had a usage, unread
        self._found: Usage | None = None

    def begin(self, *, strip: bool, repeated: int) -> None:
        """A response begins.

        Args:
            strip: the usage was asked for, and not by the client.
            repeated: tokens of the answer that are in its prompt, since it goes on where another one broke off.
        """
        self._strip = strip
        self._repeated = repeated
        self._last = b""

    def feed(self, events: bytes) -> bytes:
        """Return whole events as the client gets them."""
        self.pieces += 1
        if _KEY not in events or not _OBJECT.search(events):
            return events
        if self._whole:
            self._last = events
        else:
            self._found = last_usage(events, self._found)
        return _without_usage(events) if self._strip else events

    @property
    def usage(self) -> Usage | None:
        """What the whole answer has taken, None where the engine has not said it."""
        if not self._whole:
            return self._found
        usage = last_usage(self._last)
        if usage is None or not self._repeated:
            return usage
        return Usage(max(1, usage.prompt - self._repeated), usage.completion + self._repeated)


def _without_usage(events: bytes) -> bytes:
    """Return events without the one that has a usage and no choices."""
    if b"\r" in events:
        events = events.replace(b"\r\n", b"\n")
    kept = [e for e in events.split(b"\n\n") if e and not (_OBJECT.search(e) and _NO_CHOICES.search(e))]
    return b"".join(e + b"\n\n" for e in kept)
