"""What applying a configuration is told as: what each node would do, and what was done."""

from __future__ import annotations

import msgspec

from shoal.node.steps import Step

_MOST_LINES = 500


class Planned(msgspec.Struct, frozen=True):
    """What a node would do: its steps, and engines that stop in the end."""

    node: str
    steps: tuple[Step, ...]
    removed: tuple[str, ...]


class Story(msgspec.Struct):
    """How far an apply has got, and what it did; what `shoal apply` shows.

    Attributes:
        id: of the turn.
        state: ``running``, ``applied``, ``rolled back`` or ``refused``.
        lines: what happened, as sentences.
    """

    id: str
    state: str = "running"
    lines: list[str] = []

    def tell(self, sentence: str) -> None:
        """Add a line, unless there are too many already."""
        if len(self.lines) < _MOST_LINES:
            self.lines.append(sentence)
