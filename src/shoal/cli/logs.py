"""`shoal logs`: the log of any engine or node of the cluster, from any of its nodes."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import Annotated, Any

import typer

from shoal.cli.arguments import OrderedNode, OrderFile, OrderingKey
from shoal.cli.asked import Asked
from shoal.cli.complete import complete_engine_or_node
from shoal.cli.control import NoAnswer, Refused

LOGS = "/shoal/v1/logs"

_INTERVAL = 0.5  # s between two questions of --follow
_PATIENCE = 30.0  # s that --follow goes on asking when nobody answers: a node may just be restarted
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def logs(
    of: Annotated[
        str,
        typer.Argument(
            metavar="ENGINE|NODE",
            help="An engine as `shoal status` names it (its id alone where only one node has it), or a node: its "
            "own process's log.",
            autocompletion=complete_engine_or_node,
        ),
    ],
    config: OrderFile = None,
    at: OrderedNode = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=10_000, help="How many of the last lines.")
    ] = 200,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="WHEN", help="None older than: 90s, 10m, 2h, 1d, or 2026-11-26T17:05."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines are written, until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line: node, of, line.")
    ] = False,
    key: OrderingKey = None,
) -> None:
    """Show the last lines of an engine's log, or of a node's own, from whichever node is asked.

    Logs are told to who knows the cluster's secret. Exit status: 0, 1 when there is no such log, 2 when nobody could
    be asked.
    """
    asked = Asked("logs", config, at, key)
    arguments: dict[str, Any] = {"of": of, "lines": lines}
    if since is not None:
        arguments["since"] = f"{_moment(asked, since):.3f}"
    if follow:
        arguments["follow"] = 1
    try:
        told = asked.question(LOGS, arguments)
        _show(told, as_json)
        if follow:
            _follow(asked, told, as_json)
    except (Refused, NoAnswer) as error:
        asked.end(error)
    except KeyboardInterrupt:
        return


def _follow(asked: Asked, told: dict[str, Any], as_json: bool) -> None:
    heard = time.monotonic()
    while True:
        time.sleep(_INTERVAL)
        try:
            told = asked.question(LOGS, {"of": told["of"], "cursor": told["cursor"], "follow": 1})
        except (Refused, NoAnswer):
            if time.monotonic() - heard > _PATIENCE:
                raise
            continue
        heard = time.monotonic()
        _show(told, as_json)


def _show(told: dict[str, Any], as_json: bool) -> None:
    for line in told["lines"]:
        shown = {"node": told["node"], "of": told["of"], "line": line}
        typer.echo(json.dumps(shown, ensure_ascii=False) if as_json else line)


def _moment(asked: Asked, text: str) -> float:
    """Return the seconds since the epoch that a person means."""
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        asked.fail(f"--since {text}: neither a time ago (90s, 10m, 2h, 1d) nor a date and time", 2)
