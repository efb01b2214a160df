"""Completions of names from the running cluster: asked of the node that the line names, or of this machine's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer


def complete_node(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of nodes that begin so; none where no node answers."""
    return [name for name in _nodes(_members(context)) if name.startswith(incomplete)]


def complete_engine_or_node(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of nodes and the full ids of engines that begin so."""
    members = _members(context)
    engines = (f"{m['name']}/{e['id']}" for m in members for e in m["engines"])
    return [name for name in (*_nodes(members), *engines) if name.startswith(incomplete)]


def _nodes(members: list[dict[str, Any]]) -> Iterator[str]:
    return (str(m["name"]) for m in members)


def _members(context: typer.Context) -> list[dict[str, Any]]:
    given = context.params
    # Late: whoever completes something else need not wait for the libraries.
    from shoal.cli.asked import Asked  # noqa: PLC0415

    file = given.get("config")
    with contextlib.suppress(Exception):  # no node, no file, no completions: a shell shows no errors here
        asked = Asked("", Path(file) if file else None, given.get("at"), given.get("key"))
        members: list[dict[str, Any]] = asked.document("/shoal/v1/status")["members"]
        return members
    return []
