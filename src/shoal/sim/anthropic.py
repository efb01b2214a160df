"""Anthropic's Messages API as vLLM offers it: a chat request and its answer in other clothes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shoal.sim import chat
from shoal.sim.errors import ApiError, InvalidFieldError
from shoal.sim.fields import Fields
from shoal.sim.generation import Generation
from shoal.sim.openai import Service, TextRequest, parse_chat

_encode = msgspec.json.encode


def error_body(error: ApiError) -> bytes:
    """Return an error in Anthropic's shape; malformed bodies are answered in OpenAI's, as vLLM does."""
    if isinstance(error, InvalidFieldError):
        return error.body()
    return _encode({"type": "error", "error": {"type": error.kind, "message": error.message}})


def as_chat(data: object, *, max_tokens_required: bool = True) -> dict[str, Any]:
    """Return a Messages body as a chat body.

    Raises:
        InvalidFieldError: a field is missing or of the wrong shape.
    """
    fields = Fields(data)
    fields.require("model")
    messages = chat.check_messages(fields.require("messages"))
    if max_tokens_required:
        fields.require("max_tokens")
    max_tokens = fields.integer("max_tokens")
    if max_tokens is not None and max_tokens <= 0:
        text = "Value error, max_tokens must be positive"
        raise InvalidFieldError("value_error", "max_tokens", text, max_tokens, {"error": "ValueError()"})
    system = fields.get("system")
    turns: list[dict[str, Any]] = []
    if system:
        turns.append({"role": "system", "content": _joined(system)})
    turns += [{"role": turn["role"], "content": turn.get("content")} for turn in messages]
    body: dict[str, Any] = {"model": fields.string("model"), "messages": turns, "max_tokens": max_tokens}
    for theirs, ours in (
        ("stop_sequences", "stop"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("cache_salt", "cache_salt"),
    ):
        if fields.get(theirs) is not None:
            body[ours] = fields.get(theirs)
    if fields.boolean("stream"):
        body["stream"] = True
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return body


def _joined(system: object) -> str:
    if isinstance(system, list):
        return "".join(str(block.get("text", "")) for block in system if isinstance(block, dict))
    return chat.content_text(system, "system")


def parse_messages(data: object, headers: Mapping[bytes, bytes], service: Service) -> TextRequest:
    """Read the body of ``POST /v1/messages``.

    Raises:
        ApiError: 400 or 404.
    """
    return parse_chat(as_chat(data), headers, service)


def _stop_reason(generation: Generation) -> tuple[str | None, str | None]:
    if generation.finish_reason == "length":
        return "max_tokens", None
    if isinstance(generation.stop_reason, str):
        return "stop_sequence", generation.stop_reason
    return "end_turn", None


def _event(kind: str, **data: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **data}) + b"\n\n"


class MessagesRenderer:
    """Responses of ``/v1/messages``; see `shoal.sim.render.Renderer`."""

    def __init__(self, request: TextRequest, model: str, *, cached_tokens: bool = False) -> None:
        self._id = request.id
        self._model = model
        self._cached_tokens = cached_tokens
        self._open = False

    def _usage(self, generation: Generation, output: int) -> dict[str, int]:
        prompt, cached = generation.request.prompt_length, generation.request.cached
        usage = {"input_tokens": prompt, "output_tokens": output}
        if self._cached_tokens and output:
            usage |= {
                "input_tokens": prompt - cached,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": cached,
            }
        return usage

    def start(self, generations: Sequence[Generation]) -> bytes:
        """Return ``message_start``."""
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(generations[0], 0),
        }
        return _event("message_start", message=message)

    def delta(self, generation: Generation, ids: list[int], piece: str, done: int) -> bytes:
        """Return the text as ``content_block_delta``, the block opened before the first one."""
        if not piece:
            return b""
        opening = b""
        if not self._open:
            self._open = True
            opening = _event("content_block_start", content_block={"type": "text", "text": ""}, index=0)
        return opening + _event("content_block_delta", delta={"type": "text_delta", "text": piece}, index=0)

    def end(self, generations: Sequence[Generation]) -> bytes:
        """Close the block and give the reason and the usage."""
        closing = _event("content_block_stop", index=0) if self._open else b""
        reason, sequence = _stop_reason(generations[0])
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = self._usage(generations[0], generations[0].count)
        return closing + _event("message_delta", delta=delta, usage=usage) + _event("message_stop")

    def error(self, message: str) -> bytes:
        """Return the event that ends a stream whose engine failed."""
        return _event("error", error={"type": "internal_error", "message": message})

    def full(self, generations: Sequence[Generation]) -> bytes:
        """Return the message as a whole."""
        generation = generations[0]
        reason, sequence = _stop_reason(generation)
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": generation.detokenizer.text}],
            "model": self._model,
            "stop_reason": reason,
        }
        if sequence is not None:
            message["stop_sequence"] = sequence
        return _encode(message | {"usage": self._usage(generation, generation.count)})
