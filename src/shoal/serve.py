"""``python -m shoal.serve``: the same as ``shoal serve``."""

from __future__ import annotations

import typer

from shoal.cli.serve import serve

if __name__ == "__main__":
    typer.run(serve)
