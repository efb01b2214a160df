"""`shoal events`: what happened, as sentences, on one node or on all."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from shoal.cli.arguments import AskedFile, AskedNode, AskingKey
from shoal.cli.asked import node_url
from shoal.cli.control import NoAnswer, ask, ask_any
from shoal.config import Config, ConfigError, load

_WIDE = 300  # columns for output that no person's terminal wraps
_COLOURS = {"warning": "yellow", "error": "red"}


def events(
    url: AskedNode = None,
    config: AskedFile = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1000, help="How many of the last events.")
    ] = 50,
    everywhere: Annotated[bool, typer.Option("--all", help="Those of all nodes, by their clocks.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as they happen, until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    key: AskingKey = None,
) -> None:
    """Tell what happened: members, engines, decisions and their reasons, orders.

    Exit status: 0 when a node answered, 1 when none did, 2 when the file is wrong.
    """
    try:
        settings = load(config).config if config is not None and url is None else None
    except ConfigError as error:
        typer.echo(f"shoal events: {error}", err=True)
        raise typer.Exit(2) from None
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    path = f"/shoal/v1/events?count={count}{'&all=1' if everywhere else ''}"
    shown: set[str] = set()
    try:
        while True:
            for event in _fetch(settings, url, path, key):
                line = json.dumps(event, ensure_ascii=False)
                if line in shown:
                    continue
                shown.add(line)
                if as_json:
                    typer.echo(line)
                else:
                    console.print(_sentence(event))
            if not follow:
                return
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


def _fetch(config: Config | None, url: str | None, path: str, key: str | None) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]]
        found = ask(node_url(url), path, key) if config is None else ask_any(config, path, key)
    except NoAnswer as error:
        where = f"  {node_url(url)}: {error}" if config is None else str(error)
        typer.echo(f"shoal events: no node answered:\n{where}", err=True)
        raise typer.Exit(1) from None
    return found


def _sentence(event: dict[str, Any]) -> Text:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    node = f"{event['node']}  " if "node" in event else ""
    return Text.assemble((f"{clock}  {node}", "dim"), (event["text"], _COLOURS.get(event["level"], "")))
