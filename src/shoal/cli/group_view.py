"""How `shoal status` shows engines that span nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

_PRESENT = ("alive", "suspect", "draining")
_COLOURS = {"running": "green", "free": "dim", "joined": "yellow", "ending": "yellow"}


def group_table(members: Sequence[dict[str, Any]]) -> Table | None:
    """Return a row for each group: its leader, generation, and what each member does; None if there are no groups.

    Args:
        members: of the status document.
    """
    seats = [(m, seat) for m in members for seat in m.get("seats", [])]
    if not seats:
        return None
    table = Table(
        "group", "generation", "leader", "members", "", box=None, pad_edge=False, header_style="dim"
    )
    for group in dict.fromkeys(seat["group"] for _, seat in seats):
        table.add_row(*_row(group, [(m, s) for m, s in seats if s["group"] == group]))
    return table


def _row(group: str, seats: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Text | str]:
    here = [(m, s) for m, s in seats if m["state"] in _PRESENT]
    led = next(((m, s) for m, s in here if s["offer"] is not None), None)
    newest = max(s["generation"] for _, s in seats)
    if led is None:
        waiting = [s["waits"] or s["reason"] for _, s in here if s["rank"] == 0]
        names = [(m["name"], s["state"]) for m, s in sorted(here, key=lambda item: item[1]["rank"])]
        return [group, str(newest), "-", _members(names), waiting[0] if waiting else ""]
    leader, seat = led
    known = {m["name"]: s["state"] if m["state"] in _PRESENT else m["state"] for m, s in seats}
    names = [(name, known.get(name, "?")) for name in seat["offer"]["members"]]
    return [group, str(seat["generation"]), leader["name"], _members(names), ""]


def _members(names: Sequence[tuple[str, str]]) -> Text:
    text = Text()
    for name, state in names:
        text.append(", " if text else "").append(f"{name} ").append(state, _COLOURS.get(state, "red"))
    return text
