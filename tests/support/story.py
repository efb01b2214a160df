"""A streamed answer as a client reads it to its end: its text, how it ended, and what was wrong with it."""

import json
from collections.abc import Callable
from typing import Any

import httpx


class Story:
    """A stream as a client reads it.

    Attributes:
        engine: the one that serves it now.
        text: of the answer.
        tokens: chunks so far.
        ends: finish and stop reasons.
        usage: the usage block, once it has come.
        problem: what went wrong, "" when nothing did.
    """

    def __init__(self) -> None:
        self.engine = self.text = self.problem = ""
        self.tokens = 0
        self.ends: list[tuple[Any, Any]] = []
        self.usage: dict[str, Any] = {}
        self.ids: set[str] = set()
        self.done = 0

    def take(self, line: str) -> None:
        if line.startswith(": shoal: "):
            self.engine = line.rsplit("; ", maxsplit=1)[-1].split(" ", maxsplit=1)[0]
        elif line == "data: [DONE]":
            self.done += 1
        elif line.startswith("data: "):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                self.problem = str(chunk["error"])
                return
            self.ids.add(chunk["id"])
            self.usage = chunk.get("usage") or self.usage
            for choice in chunk["choices"]:
                self.tokens += 1
                delta = choice.get("delta")
                self.text += (choice["text"] if delta is None else delta.get("content")) or ""
                if choice["finish_reason"]:
                    self.ends.append((choice["finish_reason"], choice.get("stop_reason")))


def read(url: str, body: dict[str, Any], watch: Callable[[Story], None] = lambda _: None) -> Story:
    """Read one stream to its end; `watch` sees it grow."""
    story = Story()
    with httpx.stream("POST", url, json=body, timeout=300, trust_env=False) as reply:
        assert reply.status_code == 200, reply.read()
        story.engine = reply.headers["x-shoal-engine"]
        for line in reply.iter_lines():
            story.take(line)
            watch(story)
    if not story.problem and (story.done, len(story.ids)) != (1, 1):
        story.problem = f"{story.done} times [DONE], ids {story.ids}"
    return story
