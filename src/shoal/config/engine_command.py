"""The command line of an engine that is some other program: words with places for what Shoal decides."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from shoal.config.errors import printable, shorten

PLACES = ("host", "port", "model", "name", "gpus")
"""What may stand in braces: the address and port to listen on, the model's `path` and `name`, how many GPUs it has."""

# Lower-case words in braces only: JSON among the arguments has a quote or a digit behind its brace.
_PLACE = re.compile(r"\{([a-z_]+)\}")


def check_command(value: Any) -> tuple[str, ...]:
    """Return a command as its words; one text is split as a shell would, but no shell runs it.

    Raises:
        ValueError: it is no command; the message says what is right.
    """
    if isinstance(value, str):
        try:
            words = tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(
                f"it cannot be split into words ({error}); close the quote, or write a list"
            ) from None
    elif isinstance(value, list | tuple) and all(
        isinstance(word, str | int | float) and not isinstance(word, bool) for word in value
    ):
        words = tuple(map(str, value))
    else:
        raise ValueError("it must be a command line, as one text or as a list of texts")
    if not words or not words[0].strip():
        raise ValueError("it must begin with a program")
    if any("\0" in word for word in words):
        raise ValueError("a command line holds no NUL characters")
    return words


def places(command: tuple[str, ...]) -> Iterator[str]:
    """Yield what stands in braces in a command, unknown names included."""
    for word in command:
        yield from _PLACE.findall(word)


def unknown_places(command: tuple[str, ...]) -> str:
    """Return what is in braces and none of `PLACES`, as text for people; "" if nothing is."""
    return ", ".join(f"{{{printable(shorten(p))}}}" for p in places(command) if p not in PLACES)


def filled(command: tuple[str, ...], values: Mapping[str, str]) -> list[str]:
    """Return the words of a command with the places in `values` filled in; others are left as they are."""
    return [_PLACE.sub(lambda found: values.get(found[1], found[0]), word) for word in command]
