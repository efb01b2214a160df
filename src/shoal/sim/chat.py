"""The chat template: conversations to prompt text, in the style of ChatML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

from shoal.sim.errors import ApiError, InvalidFieldError, missing

_INCOMPATIBLE = (
    "continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you want "
    "the model to continue the final message, and add_generation_prompt when you want to add a header that will "
    "prompt it to start a new assistant message instead."
)


def content_text(content: object, loc: str) -> str:
    """Return the text of a message's content: a string, nothing, or a list of parts.

    Parts that are no text (images, audio) become a marker that depends on what they are.

    Raises:
        InvalidFieldError: another shape.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidFieldError("string_type", loc, "Input should be a valid string", content)
    texts: list[str] = []
    for index, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            text = "Input should be a valid dictionary"
            raise InvalidFieldError("dict_type", f"{loc}.{index}", text, part)
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            texts.append(f"[{part.get('type', 'part')} {crc32(msgspec.json.encode(part)):08x}]")
    return "\n".join(texts)


def check_messages(messages: object) -> list[dict[str, Any]]:
    """Return `messages` if they are a list of messages with a role each.

    Raises:
        ApiError: they are not, in the words of pydantic or the template.
    """
    if not isinstance(messages, list):
        raise InvalidFieldError("list_type", "messages", "Input should be a valid list", messages)
    for index, message in enumerate(messages):
        loc = f"messages.{index}"
        if not isinstance(message, dict):
            raise InvalidFieldError("dict_type", loc, "Input should be a valid dictionary", message)
        if "role" not in message:
            raise missing(f"{loc}.role", message)
        if not isinstance(message["role"], str):
            text = "Input should be a valid string"
            raise InvalidFieldError("string_type", f"{loc}.role", text, message["role"])
        content_text(message.get("content"), f"{loc}.content")
    return messages


def render(
    messages: Sequence[dict[str, Any]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tools: Sequence[Any] | None = None,
) -> str:
    """Return the prompt text of a conversation that passed `check_messages`.

    Raises:
        ApiError: there is no message, or both ways to end the prompt are asked for.
    """
    if not messages:
        raise ApiError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    if continue_final_message and add_generation_prompt:
        raise ApiError(_INCOMPATIBLE)
    parts: list[str] = []
    if tools:
        parts.append(f"<|im_start|>tools\n{msgspec.json.encode(tools).decode()}<|im_end|>\n")
    for message in messages:
        body = content_text(message.get("content"), "content")
        if message.get("tool_calls"):
            body += msgspec.json.encode(message["tool_calls"]).decode()
        parts.append(f"<|im_start|>{message['role']}\n{body}<|im_end|>\n")
    if continue_final_message:
        parts[-1] = parts[-1].removesuffix("<|im_end|>\n")
    if add_generation_prompt:
        parts.append("<|im_start|>assistant\n")
    return "".join(parts)
