"""What the commands of `shoal optimize` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from shoal.optimize.errors import OptimizeError

Model: TypeAlias = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Directory of the model.", show_default=False)
]
Out: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to make.", show_default=False)
]
Text: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Text (empty lines between texts) or JSON lines (text, messages or prompt): best is what your users send. "
        "Every fourth text is held out for measuring. Default: chapters of Python's reference.",
    ),
]
Samples: TypeAlias = Annotated[int, typer.Option(min=1, help="Rows of text that are looked at.")]
Length: TypeAlias = Annotated[int, typer.Option(min=16, help="Tokens of a row.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Same seed, same result.")]
Python: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--python", help="Interpreter that has llmcompressor. Default: one in an environment made for it."
    ),
]
Environment: TypeAlias = Annotated[
    Path | None,
    typer.Option("--environment", metavar="DIR", help="Where that is made. Default: the user's cache."),
]


def model_directory(path: Path) -> Path:
    """Return the directory of a model, absolute.

    Raises:
        OptimizeError: it is none.
    """
    path = path.expanduser().absolute()
    if not (path / "config.json").is_file():
        raise OptimizeError(f"{path} is no directory of a model: it has no config.json")
    return path


def name_of(file: Path | None) -> str | None:
    """Return the absolute path of a file with text, None where none was named.

    Raises:
        OptimizeError: there is no such file.
    """
    if file is None:
        return None
    if not file.is_file():
        raise OptimizeError(f"{file} is no file; --text takes a text or JSONL file")
    return str(file.absolute())


def done(output: Path, what: str) -> None:
    """Tell what was made."""
    typer.echo(f"{what}: {output}")
