"""Columns of the shared in-flight map: which engine has which."""

from __future__ import annotations

from collections import OrderedDict


class Slots:
    """Gives every engine a column and keeps it for as long as possible.

    A column is given to another engine only when none is free, and then the one whose engine was asked for longest
    ago: requests of the former engine should long be over by then.
    """

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._by_engine: OrderedDict[str, int] = OrderedDict()

    def __call__(self, engine: str) -> int:
        """Return the column of the engine with this full id."""
        slot = self._by_engine.get(engine)
        if slot is None:
            slot = self._free.pop() if self._free else self._by_engine.popitem(last=False)[1]
            self._by_engine[engine] = slot
        self._by_engine.move_to_end(engine)
        return slot

    def known(self) -> dict[str, int]:
        """Return every engine that has a column."""
        return dict(self._by_engine)

    def get(self, engine: str) -> int | None:
        """Return the column of an engine, None when it has none."""
        return self._by_engine.get(engine)
