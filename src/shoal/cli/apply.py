"""`shoal apply`: a configuration for a running cluster, engine by engine, back where it is not good."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from shoal.cli.arguments import Force, OrderingKey
from shoal.cli.asked import node_url
from shoal.cli.control import NoAnswer, Refused, order
from shoal.config import Config, ConfigError, load
from shoal.config.hosts import is_loopback
from shoal.config.shared import shared
from shoal.node.apply_orders import APPLY

_LOST_AFTER = 30.0  # s without an answer, after which the node that leads is given up
_EFFECTS = {
    "engines": "engine by engine",
    "at once": "at once",
    "next start": "when a node is next started",
}


def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The cluster's new YAML file.")],
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="HOST:PORT", help="The node that leads. Default: the first of FILE that answers."
        ),
    ] = None,
    force: Force = False,
    key: OrderingKey = None,
) -> None:
    """Have the running cluster go on with FILE: models added, changed, scaled, removed, while everything serves.

    The first new engine is the canary; each one must answer, as well as the former one does, before it gets
    requests and the next one's turn comes. Where one does not, everything goes back. `shoal plan --diff FILE` tells
    before what would happen. Exit status: 0 when FILE holds, 1 when it was refused or rolled back, 2 when nobody
    could be asked.
    """
    config, url = load_for("apply", file), node_url(at) if at else None
    try:
        told = ask_apply(config, url, {"force": force}, key)
        for change in told["changes"]:
            typer.echo(f"  {change['what']}  ({_EFFECTS[change['effect']]})")
        if told["id"] is None:
            typer.echo("nothing differs from what the cluster has")
            return
        state = follow(config, url, key)
    except Refused as error:
        fail("apply", str(error), 1)
    except NoAnswer as error:
        fail("apply", f"no node could be asked:\n{error}", 2)
    raise typer.Exit(0 if state == "applied" else 1)


def diff(file: Path, at: str | None, key: str | None) -> NoReturn:
    """Print what `apply` would do; exit with 0 when it could, 1 when it would be refused, 2 when nobody could be
    asked."""
    config, url = load_for("plan --diff", file), node_url(at) if at else None
    try:
        told = ask_apply(config, url, {"dry": True}, key)
    except Refused as error:
        fail("plan --diff", f"`shoal apply` would be refused: {error}", 1)
    except NoAnswer as error:
        fail("plan --diff", f"no node could be asked:\n{error}", 2)
    if not told["changes"]:
        typer.echo("nothing differs from what the cluster has")
    for change in told["changes"]:
        typer.echo(f"{change['what']}  ({_EFFECTS[change['effect']]})")
    for node in told["nodes"]:
        for step in node["steps"]:
            what = "is replaced" if step["replaces"] else "starts"
            stops = f", in place of {', '.join(step['stops'])}" if step["stops"] else ""
            typer.echo(f"  {node['node']}: engine {step['engine']} {what}{stops}")
        for engine in node["removed"]:
            typer.echo(f"  {node['node']}: engine {engine} finishes and stops, in the end")
    raise typer.Exit(0)


def ask_apply(
    config: Config,
    url: str | None,
    more: dict[str, Any],
    key: str | None,
    document: dict[str, Any] | None = None,
) -> Any:
    """Give the order with a configuration.

    Args:
        config: the cluster's, by which nodes are found.
        url: the node that leads; None for the first that answers.
        more: arguments of the order.
        key: admin key.
        document: what is to be applied; None for `config` itself.

    Raises:
        Refused: a node refuses, or the way to it is open to listeners.
        NoAnswer: none could be asked.
    """
    document = shared(config) if document is None else document
    if url is not None and _has_keys(document) and not _is_private(url):
        raise Refused(
            f"the file holds keys, and {url} is not encrypted: run this on a node's own machine, or use https"
        )
    return order(config, url, APPLY, {"document": document, **more}, key=key, timeout=120)


def load_for(command: str, file: Path) -> Config:
    """Return the configuration in a file that may be served; exit with 2 if it is wrong."""
    try:
        loaded = load(file)
        loaded.require_servable()
    except ConfigError as error:
        fail(command, str(error), 2)
    return loaded.config


def fail(command: str, message: str, status: int) -> NoReturn:
    """Tell why a command ends and exit."""
    typer.echo(f"shoal {command}: {message}", err=True)
    raise typer.Exit(status)


def follow(config: Config, url: str | None, key: str | None) -> str:
    """Print the story as it goes on; return how it ended."""
    shown, heard = 0, time.monotonic()
    while True:
        try:
            story = order(config, url, APPLY, {}, key=key, method="GET")
            heard = time.monotonic()
        except NoAnswer:
            if time.monotonic() - heard > _LOST_AFTER:
                raise
            time.sleep(1)
            continue
        for line in story["lines"][shown:]:
            typer.echo(line)
        shown = len(story["lines"])
        if story["state"] != "running":
            return str(story["state"])
        time.sleep(0.2)


def _has_keys(document: dict[str, Any]) -> bool:
    keys = document.get("gateway", {}).get("keys", {})
    models = [document["model"]] if "model" in document else document.get("models", [])
    outside = any(address.get("api_key") for model in models for address in model.get("addresses", ()))
    return bool(
        keys.get("api_keys") or keys.get("admin_keys") or outside or any(m.get("env") for m in models)
    )


def _is_private(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")
