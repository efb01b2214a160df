"""How commands that take long tell how far they are."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from shoal.optimize.errors import OptimizeError
from shoal.optimize.worker import Tell


@contextmanager
def told() -> Iterator[Tell]:
    """Show how far it is, with a bar on a terminal and with lines elsewhere; tell errors in one line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is half made is removed then, too
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("begins", total=None)
            last = ""

            def tell(what: str, done: int, of: int) -> None:
                nonlocal last
                stage = what.partition(",")[0]
                if stage != last and progress.disable:
                    print(f"{stage} ...", file=sys.stderr, flush=True)
                if stage != last:
                    progress.reset(task, total=of or None, description=what)
                last = stage
                progress.update(task, description=what, completed=done, total=of or None)

            yield tell
    except OptimizeError as error:
        typer.echo(f"shoal optimize: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("shoal optimize: stopped", err=True)
        raise typer.Exit(130) from None
