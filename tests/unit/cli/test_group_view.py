"""How engines across nodes are shown."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from shoal.cli.group_view import group_table


def member(
    name: str, rank: int, state: str, generation: int = 3, alive: str = "alive", **more: Any
) -> dict[str, Any]:
    seat = {
        "group": "a:1/m-0",
        "rank": rank,
        "state": state,
        "generation": generation,
        "offer": None,
        "reason": "",
        "waits": "",
    }
    return {"name": name, "state": alive, "seats": [seat | more]}


def shown(*members: dict[str, Any]) -> str:
    table = group_table(members)
    assert table is not None
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


def test_a_group_shows_its_leader_generation_and_members():
    offer = {"members": ["a:1", "b:1"]}
    told = shown(member("a:1", 0, "running", offer=offer), member("b:1", 1, "running"))
    assert "a:1/m-0 3 a:1 a:1 running, b:1 running" in told


def test_a_group_that_waits_says_for_what():
    told = shown(
        member("a:1", 0, "free", waits="waits for node b:1: it is dead"),
        member("b:1", 1, "running", alive="dead"),
    )
    assert "a:1/m-0 3 - a:1 free waits for node b:1: it is dead" in told


def test_without_groups_nothing_is_shown():
    assert group_table([{"name": "a:1", "state": "alive", "seats": []}]) is None
