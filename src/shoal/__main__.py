"""``python -m shoal``: the same as ``shoal``."""

from __future__ import annotations

from shoal.cli.main import app

if __name__ == "__main__":
    app()
