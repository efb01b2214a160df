"""Judges an answer byte by byte: right, failed, broken off, or wrong. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from benchmarks.chaos.questions import CHAT, Question

Json = dict[str, Any]


class Outcome(Enum):
    """What became of a request."""

    GOOD = "good"
    FAILED = "failed"  # an error before the first byte of an answer
    BROKEN = "broken"  # an answer that began and ended with an error, a cut, or without [DONE]
    WRONG = "wrong"  # an answer that is not the undisturbed one


@dataclass(frozen=True)
class Verdict:
    """The outcome of one request, and why it is none of the good ones."""

    outcome: Outcome
    reason: str = ""


GOOD = Verdict(Outcome.GOOD)


class _BrokenError(Exception):
    """The answer broke off."""


class _WrongError(Exception):
    """The answer differs from the undisturbed one."""


def judge(
    question: Question, status: int | None, body: bytes, cut: str = "", *, strict: bool = True
) -> Verdict:
    """Return the verdict on what a client received.

    Args:
        question: what it asked.
        status: HTTP status of the response, None when no head came.
        body: what came of the response's body.
        cut: how it ended when the response was not complete ("connection reset"); "" when it was.
        strict: False leaves out what a router may rewrite and no client builds upon: ids, usage, the shape of chunks.
    """
    if status is None:
        return Verdict(Outcome.FAILED, cut or "no response")
    if status != 200:
        return Verdict(Outcome.FAILED, f"HTTP {status}: {body[:200].decode(errors='replace')}")
    if not body and cut:
        return Verdict(Outcome.FAILED if not question.streamed else Outcome.BROKEN, cut)
    try:
        if question.streamed:
            _Stream(question, strict).read(body, cut)
        else:
            _whole(question, body, cut, strict)
    except _BrokenError as error:
        return Verdict(Outcome.BROKEN, str(error))
    except _WrongError as error:
        return Verdict(Outcome.WRONG, str(error))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        return Verdict(Outcome.WRONG, f"no answer's shape: {error!r}")
    return GOOD


def _decode(data: bytes) -> Json:
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise _WrongError(f"no JSON: {data[:80]!r}") from error
    if not isinstance(value, dict):
        raise _WrongError(f"no JSON object: {data[:80]!r}")
    return value


def _check(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise _WrongError(f"{what} is {found!r:.120}, not {expected!r:.120}")


def _check_usage(question: Question, usage: Json) -> None:
    right = question.answer
    _check("prompt_tokens", usage.get("prompt_tokens"), right.prompt_tokens)
    _check("completion_tokens", usage.get("completion_tokens"), right.completion_tokens)
    _check("total_tokens", usage.get("total_tokens"), right.prompt_tokens + right.completion_tokens)


def _whole(question: Question, body: bytes, cut: str, strict: bool) -> None:
    if cut:
        raise _BrokenError(cut)
    document = _decode(body)
    choice = document["choices"][0]
    text = choice["message"]["content"] if question.path == CHAT else choice["text"]
    _check("text", text, question.answer.text)
    _check("finish_reason", choice["finish_reason"], question.answer.finish_reason)
    if strict:
        _check_usage(question, document.get("usage") or {})


class _Stream:
    """Reads the events of one stream."""

    def __init__(self, question: Question, strict: bool) -> None:
        self._question = question
        self._strict = strict
        self._text: list[str] = []
        self._length = 0
        self._finish: list[str] = []
        self._usages: list[Json] = []
        self._roles = 0
        self._identity: tuple[Any, ...] | None = None
        self._done = 0

    def read(self, body: bytes, cut: str) -> None:
        """Raise what is wrong with a whole body, or with what came of one that was cut."""
        events = body.split(b"\n\n")
        rest = events.pop()
        error = None
        for block in events:
            for line in block.split(b"\n"):
                if line.startswith(b"data:"):
                    error = self._event(line[5:].strip()) or error
                elif line and not line.startswith((b":", b"event:", b"id:")):
                    raise _WrongError(f"no line of an event stream: {line[:80]!r}")
        if error is not None:
            raise _BrokenError(error)
        if cut or not self._done:
            raise _BrokenError(cut or "it ended without [DONE]")
        if rest:
            raise _WrongError(f"after the last event: {rest[:80]!r}")
        self._complete()

    def _event(self, data: bytes) -> str | None:
        """Take one event in; return the error it reports, if it does."""
        if data == b"[DONE]":
            self._done += 1
            if self._done > 1:
                raise _WrongError("more than one [DONE]")
            return None
        if self._done:
            raise _WrongError("an event after [DONE]")
        chunk = _decode(data)
        if chunk.get("error") is not None:
            return f"error event: {chunk['error'].get('message', '')[:150]}"
        self._check_identity(chunk)
        if chunk.get("usage") is not None:
            self._usages.append(chunk["usage"])
        for choice in chunk["choices"]:
            self._choice(choice)
        return None

    def _check_identity(self, chunk: Json) -> None:
        if not self._strict:
            return
        identity = tuple(chunk.get(name) for name in ("id", "object", "created", "model"))
        self._identity = self._identity or identity
        _check("id, object, created and model", identity, self._identity)

    def _choice(self, choice: Json) -> None:
        if self._question.path == CHAT:
            delta = choice["delta"]
            if self._strict and delta.get("role") is not None:
                self._roles += 1
                if self._roles > 1 or self._text:
                    raise _WrongError("the role comes twice, or after text")
            piece = delta.get("content") or ""
        else:
            piece = choice["text"]
        if self._strict and (choice.get("token_ids") or choice.get("prompt_token_ids")):
            raise _WrongError("token ids that the client did not ask for")
        if piece:
            if self._finish:
                raise _WrongError("text after finish_reason")
            right = self._question.answer.text
            if not right.startswith(piece, self._length):
                at = right[self._length : self._length + 40]
                raise _WrongError(f"text at character {self._length} is {piece!r:.60}, not {at!r}")
            self._text.append(piece)
            self._length += len(piece)
        if choice.get("finish_reason") is not None:
            self._finish.append(choice["finish_reason"])

    def _complete(self) -> None:
        right = self._question.answer
        _check("the number of characters", self._length, len(right.text))
        _check("finish_reason", self._finish, [right.finish_reason])
        if not self._strict:
            return
        if self._question.path == CHAT:
            _check("the number of chunks with a role", self._roles, 1)
        _check("the number of usage blocks", len(self._usages), int(self._question.usage))
        for usage in self._usages:
            _check_usage(self._question, usage)
