"""Texts to calibrate, train and measure with. Standard library only: jobs use it too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

EVERY = 4
"""One text in so many is held out for measuring; the others are for calibrating and training."""

_KEYS = ("text", "content", "prompt")
_BEGINNING = 240  # characters
_MIN = 200  # characters of a text that says something


class TextError(Exception):
    """There is no text to use; the message is one line for people."""


def read_texts(file: Path | None, *, held_out: bool) -> list[str]:
    """Return texts, either those that are held out for measuring or the others.

    Args:
        file: plain text with empty lines between texts, or JSON lines with ``text``, ``messages`` or ``prompt``; None
            for a small set that is always there.
        held_out: which of the two.

    Raises:
        TextError: it cannot be read, or holds no text.
    """
    texts = list(_of_file(file)) if file is not None else list(_always_there())
    if len(texts) < EVERY:
        raise TextError(
            f"{file} holds {len(texts)} texts, at least {EVERY} are needed; separate them with empty lines"
        )
    return [text for i, text in enumerate(texts) if (i % EVERY == 0) == held_out]


def beginnings(texts: Sequence[str], count: int) -> list[str]:
    """Return the beginnings of up to `count` texts, cut between words: something to go on from.

    Raises:
        TextError: there is none with two words.
    """
    found = []
    for text in texts[:: max(1, len(texts) // count)]:
        # Without the space: the next word brings its own along, as tokenizers have it.
        beginning, _, _ = text[:_BEGINNING].rpartition(" ")
        if beginning.strip():
            found.append(beginning.rstrip())
    if not found:
        raise TextError("the texts have no beginnings to go on from; give longer ones")
    return found[:count]


def _of_file(file: Path) -> Iterator[str]:
    try:
        content = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise TextError(f"{file} cannot be read: {reason}; name a text or JSONL file") from error
    if file.suffix not in {".jsonl", ".json"}:
        yield from _merged(content.split("\n\n"))
        return
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise TextError(
                f"{file}:{number} is no JSON: {error}; each line is one object with a `text`"
            ) from error
        yield _text_of(entry, f"{file}:{number}")


def _text_of(entry: object, where: str) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):
        for key in _KEYS:
            if isinstance(entry.get(key), str):
                return str(entry[key])
        messages = entry.get("messages")
        if isinstance(messages, list):
            return "\n".join(str(m.get("content", "")) for m in messages if isinstance(m, dict))
    raise TextError(f"{where} has no `text`, `messages`, `prompt` or `content`")


def _merged(paragraphs: list[str]) -> Iterator[str]:
    """Yield paragraphs, short ones put together with those that follow."""
    held = ""
    for paragraph in paragraphs:
        held = f"{held}\n\n{paragraph.strip()}".strip()
        if len(held) >= _MIN:
            yield held
            held = ""
    if held:
        yield held


def _always_there() -> Iterator[str]:
    """Yield the chapters of Python's language reference that come with every interpreter: 600 kB of English prose."""
    from pydoc_data.topics import topics  # noqa: PLC0415 - large, and rarely needed

    for name in sorted(topics):
        yield from _merged(topics[name].split("\n\n"))
