"""`shoal drain`, `shoal undrain` and `shoal leave`: nodes out of rotation and back, or out of the cluster."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from shoal.cli.arguments import AsJson, Force, OrderedNode, OrderFile, OrderingKey
from shoal.cli.asked import Asked
from shoal.cli.complete import complete_node
from shoal.cli.control import NoAnswer
from shoal.node.fleet import DRAIN, LEAVE, UNDRAIN

# An engine must have been seen idle for so long: gateways may hear of the drain a moment later. Seconds.
_SURELY_IDLE = 1.2


def drain(
    node: Annotated[
        str,
        typer.Argument(
            metavar="NODE",
            help="HOST:PORT of the node, as `shoal status` names it.",
            autocompletion=complete_node,
        ),
    ],
    config: OrderFile = None,
    at: OrderedNode = None,
    force: Force = False,
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=0, help="Return when its engines run nothing more."),
    ] = 0,
    as_json: AsJson = False,
    key: OrderingKey = None,
) -> None:
    """Take a node's engines out of rotation: no new requests, running ones finish. Its gateway goes on serving.

    It stays so, also over restarts, until `shoal undrain`. Exit status: 0 when done, 1 when refused or (with
    --wait) not idle in time, 2 when nobody could be asked.
    """
    asked = Asked("drain", config, at, key)
    answer = asked.order(DRAIN, {"node": node, "force": force})
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"{node} is drained: no new requests for its engines")
    if not wait:
        return
    end, idle_since = time.monotonic() + wait, None
    while idle_since is None or time.monotonic() - idle_since < _SURELY_IDLE:
        left = _running_on(asked, node)
        if left:
            idle_since = None
        elif left == 0 and idle_since is None:
            idle_since = time.monotonic()
        if idle_since is None and time.monotonic() > end:
            what = "may still run requests" if left is None else f"still runs {left} requests"
            typer.echo(f"{node} {what} after {wait:g} s", err=True)
            raise typer.Exit(1)
        time.sleep(0.2)
    if not as_json:
        typer.echo(f"{node} runs nothing more")


def undrain(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="HOST:PORT of the node.", autocompletion=complete_node)
    ],
    config: OrderFile = None,
    at: OrderedNode = None,
    as_json: AsJson = False,
    key: OrderingKey = None,
) -> None:
    """Put a drained node's engines back into rotation."""
    answer = Asked("undrain", config, at, key).order(UNDRAIN, {"node": node})
    typer.echo(json.dumps(answer) if as_json else f"{node} takes requests again")


def leave(
    node: Annotated[
        str | None,
        typer.Argument(
            metavar="[NODE]",
            help="HOST:PORT of the node. Default: the one that is asked.",
            autocompletion=complete_node,
        ),
    ] = None,
    config: OrderFile = None,
    at: OrderedNode = None,
    force: Force = False,
    as_json: AsJson = False,
    key: OrderingKey = None,
) -> None:
    """Have a node leave the cluster for good: running requests finish, its engines stop, the others forget it.

    A node that joined with `serve --join` has to join again. Exit status: 0 when it leaves, 1 when it refuses, 2 when
    nobody could be asked.
    """
    arguments: dict[str, Any] = {"force": force} | ({"node": node} if node else {})
    answer = Asked("leave", config, at, key).order(LEAVE, arguments)
    if as_json:
        typer.echo(json.dumps(answer))
        return
    typer.echo(f"{answer['node']} leaves: running requests have {answer['timeout']:g} s to finish")


def _running_on(asked: Asked, node: str) -> int | None:
    """Return how many requests the engines of a node have, None if nobody knows."""
    try:
        document = asked.document("/shoal/v1/status")
    except NoAnswer:
        return None
    member = next((m for m in document["members"] if m["name"] == node), None)
    if member is None:
        return None
    return sum(int(max(e["running"] + e["waiting"], e["in_flight"])) for e in member["engines"])
