"""Reading an OpenAI chat stream: just enough for the demo. A program of yours would use the `openai` package."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator


class ChatError(Exception):
    """The node answered with an error; the message is the node's."""


def error_message(body: str) -> str:
    """Return the message of an OpenAI-style error body, or the beginning of anything else."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()[:300] or "an empty answer"


def deltas(lines: Iterable[str]) -> Iterator[str]:
    """Yield the pieces of text in the server-sent events of a chat stream, up to its ``[DONE]``.

    Raises:
        ChatError: the stream holds an error, or ends before it is complete.
    """
    for line in lines:
        field, _, value = line.partition(":")
        if field != "data":  # comments, other fields and the empty lines between events
            continue
        value = value.strip()
        if value == "[DONE]":
            return
        event = json.loads(value)
        if "error" in event:
            raise ChatError(error_message(value))
        for choice in event.get("choices", []):
            if text := choice.get("delta", {}).get("content"):
                yield text
    raise ChatError("the answer broke off")
