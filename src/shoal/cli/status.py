"""`shoal status`: members, engines and events of a cluster, asked from any of its nodes."""

from __future__ import annotations

import json
import ssl
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.config import ConfigError, load
from shoal.config.hosts import is_loopback
from shoal.node.addresses import base_url

# Columns for output that no person's terminal wraps: a line stays a line for grep.
_WIDE = 300
_COLOURS = {
    "alive": "green",
    "ready": "green",
    "starting": "yellow",
    "suspect": "yellow",
    "draining": "yellow",
    "waiting": "yellow",
    "dead": "red",
    "unhealthy": "red",
}


def status(
    url: Annotated[
        str | None,
        typer.Argument(help="A node, HOST:PORT or URL. Default: the nodes of --config, or 127.0.0.1:8000."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Ask the first node of this file that answers.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status document.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it anew every second until Ctrl-C.")
    ] = False,
    events: Annotated[int, typer.Option("--events", help="How many of the last events to show.", min=0)] = 10,
) -> None:
    """Show members, engines and the last events of the cluster.

    Exit status: 0 when a node answered, 1 when none did.
    """
    try:
        targets = _targets(url, config)
    except ConfigError as error:
        typer.echo(f"shoal status: {error}", err=True)
        raise typer.Exit(2) from None
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    if not watch:
        document = _fetch(targets)
        if as_json:
            typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            console.print(render(document, events))
        return
    try:
        with Live(render(_fetch(targets), events), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(1)
                live.update(render(_fetch(targets), events), refresh=True)
    except KeyboardInterrupt:
        return


def _targets(url: str | None, config: Path | None) -> list[str]:
    if url is not None:
        return [url if "://" in url else f"http://{url}"]
    if config is not None:
        settings = load(config).config
        return [base_url(n.host, n.port, tls=settings.gateway.tls is not None) for n in settings.nodes]
    return ["http://127.0.0.1:8000"]


def _verification(target: str) -> ssl.SSLContext | bool:
    """Return how to check the certificate at a URL: not on this machine itself, which no certificate names."""
    host = urlsplit(target).hostname or ""
    return not is_loopback(host) and ssl.create_default_context()


def _fetch(targets: list[str]) -> dict[str, Any]:
    """Return the status document of the first target that answers; exit with status 1 when none does."""
    tried = []
    for target in targets:
        try:
            reply = httpx.get(
                f"{target.rstrip('/')}/shoal/v1/status", timeout=3, verify=_verification(target)
            )
            reply.raise_for_status()
            document: dict[str, Any] = reply.json()
        except (httpx.HTTPError, ValueError) as error:
            tried.append(f"  {target}: {error}")
        else:
            return document
    typer.echo("shoal status: no node answered:\n" + "\n".join(tried), err=True)
    typer.echo(
        "Name a node (`shoal status HOST:PORT`) or the cluster's file (`shoal status -c FILE`).", err=True
    )
    raise typer.Exit(1)


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
            _duration(e["since"]),
            str(e["running"]),
            str(e["waiting"]),
            f"{e['kv_usage']:.0%}",
            str(e["restarts"]),
            e["detail"],
        )
    return table


def _state(state: str) -> Text:
    return Text(state, _COLOURS.get(state, ""))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
