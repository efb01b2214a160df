"""`shoal status`: members, engines and events of a cluster, asked from any of its nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.cli.arguments import AskedFile, AskedNode, AskingKey
from shoal.cli.asked import node_url
from shoal.cli.control import NoAnswer, ask, ask_any
from shoal.cli.group_view import group_table
from shoal.config import ConfigError, load

_PATH = "/shoal/v1/status"
# Columns for output that no person's terminal wraps: a line stays a line for grep.
_WIDE = 300
COLOURS = {
    "alive": "green",
    "ready": "green",
    "starting": "yellow",
    "suspect": "yellow",
    "draining": "yellow",
    "drained": "yellow",
    "waiting": "yellow",
    "dead": "red",
    "unhealthy": "red",
}
"""Of the states of nodes and engines."""


def status(
    url: AskedNode = None,
    config: AskedFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status document.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it anew every second until Ctrl-C.")
    ] = False,
    events: Annotated[int, typer.Option("--events", help="How many of the last events to show.", min=0)] = 10,
    key: AskingKey = None,
) -> None:
    """Show members, engines and the last events of the cluster.

    Exit status: 0 when a node answered, 1 when none did.
    """
    try:
        asker = _asker(url, config, key)
    except ConfigError as error:
        typer.echo(f"shoal status: {error}", err=True)
        raise typer.Exit(2) from None
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    if not watch:
        document = _fetch(asker, url)
        if as_json:
            typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            console.print(render(document, events))
        return
    try:
        with Live(render(_fetch(asker, url), events), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(1)
                live.update(render(_fetch(asker, url), events), refresh=True)
    except KeyboardInterrupt:
        return


def _asker(url: str | None, config: Path | None, key: str | None) -> Callable[[], Any]:
    """Return what asks for the status document.

    Raises:
        ConfigError: the file is wrong.
    """
    if url is not None or config is None:
        target = node_url(url)
        return lambda: ask(target, _PATH, key)
    settings = load(config).config
    return lambda: ask_any(settings, _PATH, key)


def _fetch(asker: Callable[[], Any], url: str | None) -> dict[str, Any]:
    """Return the status document; exit with status 1 when no node answers."""
    try:
        document: dict[str, Any] = asker()
    except NoAnswer as error:
        where = f"  {url}: {error}" if url is not None else str(error)
        typer.echo(f"shoal status: no node answered:\n{where}", err=True)
        typer.echo(
            "Name a node (`shoal status HOST:PORT`) or the cluster's file (`shoal status -c FILE`).", err=True
        )
        raise typer.Exit(1) from None
    return document


def render(document: dict[str, Any], events: int) -> Group:
    """Return the status document as tables for a terminal, with the last `events` events."""
    engines = [e for m in document["members"] for e in m["engines"] if not e["standby"]]
    ready = sum(e["state"] == "ready" for e in engines)
    head = Text.assemble(
        ("cluster ", "dim"),
        document["cluster"],
        ("  seen by ", "dim"),
        document["node"],
        ("  engines ready ", "dim"),
        f"{ready}/{len(engines)}",
    )
    generation = max((m.get("generation") or 0 for m in document["members"]), default=0)
    if generation:
        head.append("  generation ", "dim").append(str(generation))
    parts: list[Any] = [head]
    if document["isolated"]:
        parts.append(Text("Most members vanished at once: this node is probably cut off itself.", "bold red"))
    members = Table(
        "node",
        "state",
        "role",
        "last heard",
        "queued",
        "version",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for m in document["members"]:
        heard = "this node" if m["is_self"] else "never" if m["age"] is None else f"{m['age']:.1f} s ago"
        role = f"{m['role']} for {m['covers']}" if m["covers"] else m["role"] or "?"
        queued = str(sum(m.get("waiting", {}).values()))
        members.add_row(m["name"], _state(m["state"]), role, heard, queued, m["version"] or "?")
    parts += [Text(), members, Text(), _engines(document)]
    if (groups := group_table(document["members"])) is not None:
        parts += [Text(), groups]
    errors = [
        (f"{m['name']}/{e['id']}", line)
        for m in document["members"]
        for e in m["engines"]
        for line in e["errors"]
    ]
    if errors:
        parts += [Text(), Text("last error lines", "dim")]
        parts += [Text.assemble((f"{name}  ", "dim"), line) for name, line in errors]
    if events and document["events"]:
        parts += [Text(), Text(f"events of {document['node']}", "dim")]
        for event in document["events"][-events:]:
            clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
            colour = {"warning": "yellow", "error": "red"}.get(event["level"], "")
            parts.append(Text.assemble((f"{clock}  ", "dim"), (event["text"], colour)))
    return Group(*parts)


def _engines(document: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("engine", no_wrap=True, overflow="fold")
    for name in ("state", "for", "running", "waiting", "KV", "restarts"):
        table.add_column(name, no_wrap=True)
    table.add_column("last event")
    rows = [(m["name"], e) for m in document["members"] for e in m["engines"]]
    rows += [("external", e) for e in document["external"]]
    for owner, e in rows:
        table.add_row(
            f"{owner}/{e['id']}",
            _state("standby" if e["standby"] and e["state"] == "ready" else e["state"]),
            duration(e["since"]),
            str(e["running"]),
            str(e["waiting"]),
            f"{e['kv_usage']:.0%}",
            str(e["restarts"]),
            e["detail"],
        )
    return table


def _state(state: str) -> Text:
    return Text(state, COLOURS.get(state, ""))


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
