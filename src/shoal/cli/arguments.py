"""Arguments and options that several commands have, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from shoal.cli.control import KEY_VARIABLE

AskedNode: TypeAlias = Annotated[
    str | None,
    typer.Argument(help="A node, HOST:PORT or URL. Default: the nodes of --config, or 127.0.0.1:8000."),
]
"""Whom to ask."""

AskedFile: TypeAlias = Annotated[
    Path | None, typer.Option("--config", "-c", help="Ask the first node of this file that answers.")
]
"""Whom to ask where no node is named."""

AskingKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--key", envvar=KEY_VARIABLE, show_envvar=True, help="Admin key, for a node on another machine."
    ),
]
"""What is shown to be told something."""

OrderingKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--key", envvar=KEY_VARIABLE, show_envvar=True, help="Admin key, where gateways ask for one."
    ),
]
"""What is shown to be obeyed."""

Force: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Even if a model is left with fewer engines than its `min_engines`.")
]
"""Below the capacity floor."""

OrderFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The cluster's file: whom to ask, and the secret to prove oneself with."
    ),
]
"""Whom to order, and how."""

OrderedNode: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="HOST:PORT",
        help="Ask this node; without --config the secret is taken from SHOAL_SECRET.",
    ),
]
"""Whom to order in place of the first node of the file."""

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
"""For programs."""
