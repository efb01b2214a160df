"""`shoal optimize evaluate`: two models side by side in real vLLM."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shoal.cli.optimize.common import Length, Text, model_directory
from shoal.cli.progress import told
from shoal.optimize import compare
from shoal.optimize.errors import OptimizeError
from shoal.optimize.measure import Effort, measure
from shoal.optimize.picture import svg


def evaluate(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model as it was.", show_default=False)],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="The model that was made of it.", show_default=False)
    ],
    text: Text = None,
    texts: Annotated[int, typer.Option(min=1, help="Rows of held-out text.")] = 32,
    length: Length = 256,
    answers: Annotated[int, typer.Option(min=1, help="Greedy answers that are compared.")] = 8,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 48,
    rounds: Annotated[int, typer.Option(min=1, help="How often each load is measured.")] = 3,
    load: Annotated[
        list[int] | None, typer.Option(min=1, help="Requests at once; may be given again. Default: 1, 4, 8.")
    ] = None,
    max_perplexity_rise: Annotated[str | None, typer.Option(help="Fail beyond this: 3% or 0.03.")] = None,
    min_agreement: Annotated[
        str | None, typer.Option(help="Fail below this share of equal likeliest tokens.")
    ] = None,
    min_speed_up: Annotated[
        float | None, typer.Option(help="Fail below this factor of the time per token.")
    ] = None,
    min_smaller: Annotated[float | None, typer.Option(help="Fail below this factor of the size.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it into this file, as SVG.")
    ] = None,
    vllm_python: Annotated[
        Path | None, typer.Option(help="Interpreter vLLM is installed in. Default: this one.")
    ] = None,
) -> None:
    """Serve two models with real vLLM side by side and compare them: perplexity, answers, size, memory, speed.

    Exit status: 0, 1 when a limit is not kept, 2 when it could not be measured.
    """
    with told() as tell:
        limits = compare.Limits(
            compare.share(max_perplexity_rise) if max_perplexity_rise else None,
            compare.share(min_agreement) if min_agreement else None,
            min_speed_up,
            min_smaller,
        )
        paths = [model_directory(path) for path in (a, b)]
        loads = tuple(load or (1, 4, 8))
        effort = Effort(texts, length, answers, tokens, loads, rounds)
        first, second = asyncio.run(measure(paths, text, effort, tell, vllm_python))
        if picture is not None:
            try:
                picture.write_text(svg(first, second))
            except OSError as error:
                raise OptimizeError(f"{picture} cannot be written: {error.strerror}") from error
    problems = list(compare.broken(first, second, limits))
    if as_json:
        numbers = [
            {k: v for k, v in asdict(m).items() if k not in {"likeliest", "answers"}} for m in (first, second)
        ]
        compared = {
            "perplexity_rise": compare.perplexity_rise(first, second),
            "agreement": compare.agreement(first, second),
            "same_answers": compare.same_answers(first, second),
            "speed_up": compare.speed_up(first, second),
        }
        typer.echo(json.dumps({"models": numbers, **compared, "not_kept": problems}, indent=2))
    elif as_markdown:
        typer.echo(compare.markdown(first, second))
    else:
        table = Table("", first.name, second.name, "", box=None, header_style="bold")
        for row in compare.rows(first, second):
            table.add_row(*row)
        Console(highlight=False).print(table)
    for problem in problems:
        typer.echo(f"shoal optimize: not good enough: {problem}", err=True)
    raise typer.Exit(1 if problems else 0)
