"""From what another engine answers to what the client would have got from the first one."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.gateway.continuation import Asked, Continuation
from shoal.gateway.events import StreamError, payloads
from shoal.gateway.transcript import DONE, Choice, Chunk, Transcript, Usage, decode_chunk

DONE_EVENT = b"data: [DONE]\n\n"

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class SeamError(StreamError):
    """The continuation does not fit what was said."""


class EngineError(StreamError):
    """The engine ended the stream with an error."""


def event(data: object) -> bytes:
    """Return a server-sent event with JSON data."""
    return b"data: " + _encode(data) + b"\n\n"


class Splice:
    """Turns the events of one continuation into events of the stream it continues, and notes them there.

    Args:
        asked: the client's request.
        said: what the stream has said; grows.
        plan: the request that the continuation answers.
    """

    def __init__(self, asked: Asked, said: Transcript, plan: Continuation) -> None:
        assert said.head is not None
        self._asked = asked
        self._said = said
        self._exact = plan.exact
        self._repeats = plan.repeats
        self._usage_wanted = asked.usage or said.with_usage
        self._usage_in_chunks = asked.continuous_usage or said.with_usage
        self._before = plan.tokens
        self._head: dict[str, Any] = {
            "id": said.head.id,
            "object": "chat.completion.chunk" if asked.chat else "text_completion",
            "created": said.head.created,
            "model": said.head.model,
        }
        if plan.exact:
            said.rewind(plan.tokens, plan.covered)
        else:
            # What follows belongs to another tokenisation: from now on there is only text to go on from.
            said.prompt_ids = None
            said.counted = plan.tokens
            del said.ids[:], said.ahead[:], said.mark_ids[:], said.mark_chars[:]

    def feed(self, events: bytes) -> bytes:
        """Return what the client gets for whole events of the continuation.

        Raises:
            EngineError: one of them is an error.
            StreamError: one of them is no chunk.
            SeamError: the continuation begins with something else than what the client has.
        """
        out = []
        for data in payloads(events):
            if data == DONE:
                if self._repeats:
                    raise SeamError("ended before it came to where the stream broke off")
                out.append(DONE_EVENT)
                continue
            try:
                chunk = decode_chunk(data)
            except msgspec.MsgspecError as error:
                raise StreamError(f"sent something that is no chunk: {error}") from None
            if chunk.error is not None:
                raise EngineError(error_message(chunk.error))
            if chunk.choices:
                out.append(self._choice(chunk, chunk.choices[0], data))
            elif chunk.usage is not None and self._usage_wanted:
                out.append(self._usage_block(chunk, data))
        return b"".join(out)

    def finish(self, reason: str) -> bytes:
        """Return the end of an answer that has everything but its end: all its tokens, or its last chunk but usage."""
        said = self._said
        out = []
        if said.finish_reason is None:
            said.finish_reason = reason
            out.append(self._chunk("", [], Choice(finish_reason=reason), self._counts(0), None))
        if self._usage_wanted and not said.usage_sent:
            out.append(event(self._head | {"choices": [], "usage": self._counts(0)}))
        return b"".join((*out, DONE_EVENT))

    def _choice(self, chunk: Chunk, choice: Choice, data: bytes) -> bytes:
        text = self._news(choice)
        if not self._exact:
            return self._passed_on(chunk, choice, data)
        ids = self._said.news_of(choice.token_ids or [])
        self._said.extend(choice.token_ids, choice.content, text)
        self._said.finish_reason = choice.finish_reason
        if not text and choice.finish_reason is None and not (ids and self._asked.token_ids):
            return b""
        counts = None
        if self._usage_in_chunks and chunk.usage is not None:
            counts = self._counts(chunk.usage.completion_tokens or 0)
        return self._chunk(text, ids, choice, counts, chunk.system_fingerprint)

    def _news(self, choice: Choice) -> str:
        """Return the text of a choice without what the client has already."""
        text = choice.content
        if not self._repeats:
            return text
        size = min(len(text), len(self._repeats))
        if text[:size] != self._repeats[:size] or (choice.finish_reason and size < len(self._repeats)):
            raise SeamError("began with other words than those that were sent")
        self._repeats = self._repeats[size:]
        return text[size:]

    def _chunk(
        self, text: str, ids: list[int], like: Choice, usage: dict[str, Any] | None, fingerprint: str | None
    ) -> bytes:
        """Return a chunk with the fields of vLLM's, in its order; all but its text and its ids is that of `like`."""
        content = {"delta": {"content": text}} if self._asked.chat else {"text": text}
        choice: dict[str, Any] = {
            "index": 0,
            **content,
            "logprobs": None,
            "finish_reason": like.finish_reason,
        }
        if like.finish_reason is not None or not self._asked.chat:
            choice["stop_reason"] = like.stop_reason
        if not self._asked.chat:
            choice["prompt_token_ids"] = None
        choice["token_ids"] = ids if self._asked.token_ids else None
        body = self._head | {"choices": [choice]}
        if fingerprint is not None and not self._usage_wanted:
            body["system_fingerprint"] = fingerprint
        if usage is not None and self._usage_in_chunks:
            body["usage"] = usage
        return event(body)

    def _passed_on(self, chunk: Chunk, choice: Choice, data: bytes) -> bytes:
        """Return a chunk of a continuation by text: as it came, but for who it is and what is counted."""
        delta = choice.delta
        if (
            delta is not None
            and delta.role is not None
            and not delta.content
            and choice.finish_reason is None
        ):
            return b""  # the client knows the role
        body: dict[str, Any] = _decode(data)
        body |= self._head
        said = self._said
        said.tool_calls = said.tool_calls or bool(delta and delta.tool_calls)
        said.extend(None, choice.content, choice.content)
        said.finish_reason = choice.finish_reason
        if "usage" in body:
            if self._usage_in_chunks and chunk.usage is not None:
                body["usage"] = self._counts_of(chunk.usage)
            else:
                del body["usage"]
        return event(body)

    def _usage_block(self, chunk: Chunk, data: bytes) -> bytes:
        assert chunk.usage is not None
        self._said.usage_sent = True
        body: dict[str, Any] = _decode(data)
        body |= self._head
        details = chunk.usage.prompt_tokens_details
        body["usage"] = self._counts_of(chunk.usage) | ({"prompt_tokens_details": details} if details else {})
        return event(body)

    def _counts_of(self, usage: Usage) -> dict[str, Any]:
        said = self._said
        if (
            said.prompt_tokens is None
        ):  # of a stream without ids: what the prompt has now, less the answer in it
            said.prompt_tokens = max(1, usage.prompt_tokens - self._before)
        return self._counts(usage.completion_tokens or 0)

    def _counts(self, completion: int) -> dict[str, Any]:
        """Return the usage: the client's prompt once, and all tokens of the answer."""
        prompt = self._said.prompt_tokens or 0
        total = self._before + completion
        return {"prompt_tokens": prompt, "total_tokens": prompt + total, "completion_tokens": total}


def error_message(error: object) -> str:
    """Return what an OpenAI-style error says, to follow the engine's name."""
    message = error.get("message") if isinstance(error, dict) else error
    return f"answered with an error: {' '.join(str(message).split())[:300]}"
