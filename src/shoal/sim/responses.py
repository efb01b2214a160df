"""OpenAI's Responses API as vLLM offers it: a chat request and its answer in other clothes. Without streams."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shoal.sim.errors import ApiError, InvalidFieldError
from shoal.sim.fields import Fields
from shoal.sim.generation import Generation
from shoal.sim.openai import Service, TextRequest, parse_chat
from shoal.sim.render import ChatRenderer

_NOT_HERE = ("stream", "background", "previous_response_id")
_SAME = ("model", "temperature", "top_p", "top_k", "cache_salt", "priority", "seed", "ignore_eos", "tools")


def as_chat(data: object) -> dict[str, Any]:
    """Return a Responses body as a chat body.

    Raises:
        ApiError: a field is missing, of the wrong shape, or of those that are not simulated.
    """
    fields = Fields(data)
    for name in _NOT_HERE:
        if fields.get(name):
            raise ApiError(f"The simulated engine has no `{name}` of responses.", 501, param=name)
    given = fields.require("input")
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else _turns(given)
    instructions = fields.string("instructions")
    if instructions is not None:
        turns.insert(0, {"role": "system", "content": instructions})
    body: dict[str, Any] = {name: fields.get(name) for name in _SAME if fields.get(name) is not None}
    return body | {"messages": turns, "max_tokens": fields.integer("max_output_tokens")}


def _turns(items: object) -> list[dict[str, Any]]:
    if not isinstance(items, list):
        raise InvalidFieldError("string_type", "input.str", "Input should be a valid string", items)
    turns = []
    for number, item in enumerate(items):
        if not isinstance(item, dict) or "role" not in item or item.get("type", "message") != "message":
            text = "Input should be a message; the simulated engine knows no other items"
            raise InvalidFieldError("value_error", f"input.{number}", text, item)
        turns.append({"role": item["role"], "content": item.get("content")})
    return turns


def parse_responses(data: object, headers: Mapping[bytes, bytes], service: Service) -> TextRequest:
    """Read the body of ``POST /v1/responses``.

    Raises:
        ApiError: 400, 404 or 501.
    """
    return parse_chat(as_chat(data), headers, service)


class ResponsesRenderer(ChatRenderer):
    """Answers of ``/v1/responses``, as a whole.

    Args:
        request: a chat.
        model: name to give in answers.
        data: the body that asked.
    """

    def __init__(self, request: TextRequest, model: str, data: object) -> None:
        super().__init__(request, model)
        self._fields = Fields(data)
        self._name = request.id.removeprefix("chatcmpl-")
        self._max_tokens = request.samplings[0].max_tokens

    def full(self, generations: Sequence[Generation]) -> bytes:
        """See `Renderer.full`."""
        (generation,) = generations
        cut_off = generation.finish_reason == "length"
        prompt, count = generation.request.prompt_length, generation.count
        text: dict[str, Any] = {
            "annotations": [],
            "text": generation.detokenizer.text,
            "type": "output_text",
            "logprobs": None,
        }
        status = "incomplete" if cut_off else "completed"
        message = {
            "id": f"msg_{self._name}",
            "content": [text],
            "role": "assistant",
            "status": status,
            "type": "message",
            "phase": None,
        }
        get = self._fields.get
        answer = {
            "id": f"resp_{self._name}",
            "created_at": int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut_off else None,
            "instructions": get("instructions"),
            "metadata": get("metadata"),
            "model": self._head["model"],
            "object": "response",
            "output": [message],
            "parallel_tool_calls": True,
            "temperature": 1.0 if get("temperature") is None else get("temperature"),
            "tool_choice": "auto",
            "tools": get("tools") or [],
            "top_p": 1.0 if get("top_p") is None else get("top_p"),
            "background": False,
            "max_output_tokens": self._max_tokens,
            "service_tier": "auto",
            "status": status,
            "truncation": "disabled",
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": generation.request.cached, "cache_write_tokens": 0},
                "output_tokens": count,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + count,
            },
        }
        return msgspec.json.encode(answer)
