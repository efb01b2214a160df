"""Where a result goes: written beside its place, and put there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shoal import __version__
from shoal.optimize.errors import OptimizeError


def require_free(path: Path) -> Path:
    """Return `path`, absolute, if a result may be put there.

    Raises:
        OptimizeError: something is there.
    """
    path = path.expanduser().absolute()
    if path.is_dir() and not any(path.iterdir()):
        return path
    if path.exists():
        raise OptimizeError(
            f"{path} is there already and not empty; name another directory with -o, or remove it"
        )
    return path


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a directory to write into; it gets the name `path` when the block ends well, and goes when it does not.

    Raises:
        OptimizeError: nothing can be written there.
    """
    path = require_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise OptimizeError(f"nothing can be written to {path.parent}: {error.strerror}") from error
    try:
        yield work
        work.chmod(0o755)
        for file in work.iterdir():
            file.chmod(
                0o644
            )  # safetensors writes files for their owner alone; who serves it may be somebody else
        if path.exists():
            path.rmdir()
        work.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_card(directory: Path, name: str, title: str, source: Path, facts: Mapping[str, Any]) -> None:
    """Write a model card into `directory`, which will be called `name`: what the model is and how it was made."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    how = f"{title}, made from `{source.name}` by `shoal optimize` {__version__}."
    measure = f"`shoal optimize evaluate {source.name} {name}` measures what it costs and what it brings."
    head = f"---\ntags: [shoal, {title.split(maxsplit=1)[0].lower()}]\n---\n\n# {title}\n"
    (directory / "README.md").write_text(f"{head}\n{how}\n\n| | |\n|---|---|\n{rows}\n\n{measure}\n")
