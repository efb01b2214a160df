"""The `shoal` command."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal import __version__
from shoal.cli.lazy import LazyGroup

app = typer.Typer(
    cls=LazyGroup,
    help="Multi-node LLM serving on vLLM: one YAML file, the same command on every node.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shoal {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Multi-node LLM serving on vLLM: one YAML file, the same command on every node."""
