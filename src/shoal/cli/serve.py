"""`shoal serve`: run a node, or with --local all nodes of the file that live on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.local import serve_local
from shoal.config import Config, ConfigError, load
from shoal.node.errors import StartError
from shoal.node.identity import find_self, listen_address, local_nodes
from shoal.node.ports import is_free
from shoal.observe import logs

SUBSTRATE_VARIABLE = "SHOAL_SUBSTRATE"
"""Set by what starts node processes in place of people: ``ray``."""


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The cluster's YAML file, the same on every node.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            "--join",
            metavar="HOST:PORT",
            help="Join the cluster of this node, which tells the configuration; the secret is taken from SHOAL_SECRET. "
            "A --config beside it is for settings of this machine only.",
        ),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            help="HOST:PORT of the file that this process is; found out by itself. With --join, as which the others "
            "are to know it.",
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Start all nodes of the file that live on this machine.")
    ] = False,
    log_format: Annotated[
        str | None, typer.Option("--log-format", help="text or json; the file's logging.format otherwise.")
    ] = None,
) -> None:
    """Run a node of the cluster until it is told to stop.

    Ctrl-C or SIGTERM stops gracefully: running requests finish, then the engines stop. A second one stops at once.
    SIGUSR2 stops gracefully, too, but leaves the engines to the next process of this node. SIGHUP reloads.
    Exit status: 0 after a graceful stop, 2 when the node cannot start, 1 when it was stopped at once.
    """
    try:
        if join is not None:
            raise typer.Exit(_join(join, node, config, log_format))
        if config is None:
            raise StartError(
                "name the cluster's file with --config FILE, or a node to join with --join HOST:PORT"
            )
        loaded = load(config)
        loaded.require_servable()
        _require_builtin(loaded.config)
        if local and node is not None:
            raise StartError(
                "--local starts all nodes of this machine, --node one of them: give one or the other."
            )
        if local:
            nodes = local_nodes(loaded.config)
            if not nodes:
                find_self(loaded.config, None, lambda _: False)  # raises, with the reason
            raise typer.Exit(serve_local(config, [n.name for n in nodes], log_format))
        me = find_self(loaded.config, node, lambda n: is_free(listen_address(n), n.port))
        settings = loaded.config
        logs.set_up(me.name, settings.logging.level, log_format or settings.logging.format)
        # Late: the node's libraries take half a second to import, a wrong file should be told at once.
        from shoal.node.main import run  # noqa: PLC0415

        raise typer.Exit(run(settings, me, lambda: load(config).config))
    except (ConfigError, StartError) as error:
        typer.echo(f"shoal serve: {error}", err=True)
        raise typer.Exit(2) from None


def _require_builtin(config: Config) -> None:
    """Refuse to start a node that Ray is to start: its name and its engines would be nobody's."""
    if config.cluster.substrate == "ray" and os.environ.get(SUBSTRATE_VARIABLE) != "ray":
        raise StartError(
            "`cluster.substrate` is ray: `shoal up --on ray FILE` starts the nodes, one on each of Ray's. Remove it to "
            "start the nodes of the file"
        )


def _join(member: str, node: str | None, config: Path | None, log_format: str | None) -> int:
    """Join a cluster and run; return the exit status.

    Raises:
        ConfigError: the file is wrong.
        StartError: the cluster does not take this node in, or it cannot start.
    """
    from shoal.node.join import join  # noqa: PLC0415 - late, as above
    from shoal.node.main import run  # noqa: PLC0415

    local = load(config).config if config is not None else None
    settings, me = join(member, node, local, os.environ)
    logs.set_up(me.name, settings.logging.level, log_format or settings.logging.format)
    return run(settings, me, lambda: load(config).config if config is not None else settings)
