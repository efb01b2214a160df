"""`shoal serve`: run a node, or with --local all nodes of the file that live on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.local import serve_local
from shoal.config import ConfigError, load
from shoal.node.errors import StartError
from shoal.node.identity import find_self, listen_address, local_nodes
from shoal.node.ports import is_free
from shoal.observe import logs


def serve(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The cluster's YAML file, the same on every node.")
    ],
    node: Annotated[
        str | None,
        typer.Option("--node", help="HOST:PORT of the file that this process is; found out by itself."),
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
    Exit status: 0 after a graceful stop, 2 when the node cannot start, 1 when it was stopped at once.
    """
    try:
        loaded = load(config)
        loaded.require_servable()
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
