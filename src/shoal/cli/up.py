"""`shoal up` and `shoal down`: a whole cluster on Ray, from one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from shoal.config import Config, ConfigError, load

_ON = Annotated[
    Literal["ray"], typer.Option("--on", help="What the cluster runs on: a Ray cluster that is there.")
]
_ADDRESS = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Ray's head. Default: RAY_ADDRESS, or the Ray of this machine.",
    ),
]


def up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The cluster's YAML file.")],
    on: _ON = "ray",
    address: _ADDRESS = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="Return when all is ready, or after this; 0: at once."
        ),
    ] = 900,
) -> None:
    """Start a cluster on Ray: a Shoal node on each of Ray's nodes, engines where Ray has room for them.

    Nodes that Ray gets later are taken in, those it loses leave. Run it on one of Ray's nodes. Exit status: 0 when all
    is ready, 1 when it was not in time (it goes on by itself), 2 when it was refused.
    """
    from shoal.substrate.ray_api import RayError  # noqa: PLC0415 - late: a wrong file should be told at once

    try:
        loaded = load(file)
        from shoal.substrate.driver import up as start  # noqa: PLC0415

        ready = start(loaded.config, address, wait, typer.echo)
    except (ConfigError, RayError) as error:
        _fail("up", str(error))
    if not ready:
        typer.echo(
            f"not all was ready after {wait:g} s; it goes on: `shoal status HOST:PORT` tells", err=True
        )
        raise typer.Exit(1)


def down(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The cluster's YAML file, for its name. Default: shoal."),
    ] = None,
    on: _ON = "ray",
    address: _ADDRESS = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long it may take.")
    ] = 120,
) -> None:
    """End a cluster on Ray: running requests finish, engines and nodes stop, Ray goes on.

    Exit status: 0 when nothing is left, 1 when something was not gone in time, 2 when it was refused.
    """
    from shoal.substrate.ray_api import RayError  # noqa: PLC0415 - late, as above

    try:
        name = load(file).config.cluster.name if file is not None else _default_name()
        from shoal.substrate.driver import down as end  # noqa: PLC0415

        gone = end(name, address, wait, typer.echo)
    except (ConfigError, RayError) as error:
        _fail("down", str(error))
    if not gone:
        typer.echo(f"not all nodes had stopped after {wait:g} s", err=True)
        raise typer.Exit(1)
    typer.echo(f"cluster {name} is down")


def _default_name() -> str:
    return str(Config.model_fields["cluster"].default.name)


def _fail(command: str, message: str) -> NoReturn:
    typer.echo(f"shoal {command}: {message}", err=True)
    raise typer.Exit(2)
