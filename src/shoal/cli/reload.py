"""`shoal reload`: new gateway workers on the nodes of this machine, without dropping a connection."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli.control import NoAnswer, ask_here
from shoal.config import Config, ConfigError, Node, load
from shoal.node.lock import running_process

# New workers start in well under a second each. Seconds.
_DEADLINE = 30.0


def reload(
    config: Annotated[Path, typer.Option("--config", "-c", help="The cluster's YAML file.")],
    node: Annotated[
        str | None,
        typer.Option("--node", help="HOST:PORT of one node; otherwise all that run on this machine."),
    ] = None,
) -> None:
    """Read the file's `gateway` settings again and replace the gateway workers; the same as SIGHUP to the nodes.

    New workers take over the listening sockets, the former ones finish what they have open. Exit status: 0 when new
    workers serve on every node that was asked, 1 when they do not, 2 when there is no such node here.
    """
    try:
        settings = load(config).config
    except ConfigError as error:
        typer.echo(f"shoal reload: {error}", err=True)
        raise typer.Exit(2) from None
    running = {
        n: pid
        for n in settings.nodes
        if node in (None, n.name) and (pid := running_process(settings.state_dir_of(n.name))) is not None
    }
    if not running:
        typer.echo(f"shoal reload: no node of {config} runs here{f' as {node}' if node else ''}", err=True)
        raise typer.Exit(2)
    reloaded = [_reload(settings, n, pid) for n, pid in running.items()]
    if not all(reloaded):
        raise typer.Exit(1)


def _reload(config: Config, node: Node, pid: int) -> bool:
    """Ask one node, wait until it has new workers, and tell."""
    before = {w["pid"] for w in _workers(config, node)}
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline:
        now = _workers(config, node)
        if now and all(w["listening"] and w["pid"] not in before for w in now):
            typer.echo(f"{node.name}: {len(now)} new gateway worker{'s' * (len(now) != 1)}")
            return True
        time.sleep(0.05)
    typer.echo(f"{node.name}: no new gateway workers within {_DEADLINE:g} s; see `shoal status`", err=True)
    return False


def _workers(config: Config, node: Node) -> list[dict[str, Any]]:
    try:
        workers: list[dict[str, Any]] = ask_here(config, node.name, "/shoal/v1/status")["workers"]
    except (NoAnswer, KeyError):
        return []
    return workers
