"""`shoal optimize distill`: a smaller model learns from a larger one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli.optimize.common import Environment, Length, Out, Python, Seed, Text, done, name_of
from shoal.cli.progress import told
from shoal.optimize.errors import OptimizeError
from shoal.optimize.make import Order, make
from shoal.optimize.source import read_source, require_prunable


def distill(
    teacher: Annotated[
        Path, typer.Argument(metavar="TEACHER", help="The model to learn from.", show_default=False)
    ],
    output: Out,
    student: Annotated[
        Path | None, typer.Argument(metavar="[STUDENT]", help="The model that learns, such as a pruned one.")
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="In place of STUDENT: begin with so many of the teacher's layers."),
    ] = None,
    text: Text = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 4,
    length: Length = 256,
    rate: Annotated[float, typer.Option(min=0, help="Highest learning rate.")] = 3e-4,
    temperature: Annotated[
        float, typer.Option(min=0.1, help="That both models' probabilities are softened with.")
    ] = 1.0,
    weight: Annotated[
        float,
        typer.Option(min=0, max=1, help="The teacher's share of the loss; 0 is training without a teacher."),
    ] = 0.9,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Before, train the same student without the teacher, with the same steps, text and seed, and tell its "
            "perplexity, too.",
        ),
    ] = False,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints (and every 5 minutes).")
    ] = 100,
    seed: Seed = 0,
    python: Python = None,
    environment: Environment = None,
) -> None:
    """Train a smaller model to answer as a larger one does. Interrupted, the same command goes on where it was."""
    with told() as tell:
        source = read_source(teacher)
        learner = read_source(student) if student else None
        if (student is None) == (layers is None):
            raise OptimizeError(
                "name either a STUDENT, or with --layers how many of the teacher's layers it has"
            )
        require_prunable(source)
        have = source.profile.architecture.layers
        if layers is not None and layers > have:
            raise OptimizeError(f"{source.path} has {have} layers, so --layers {layers} is not possible")
        given = {
            "teacher": str(source.path),
            "student": str(learner.path) if learner else None,
            "layers": layers,
            "text": name_of(text),
            "steps": steps,
            "batch": batch,
            "length": length,
            "rate": rate,
            "temperature": temperature,
            "weight": weight,
            "compare": compare,
            "seed": seed,
        }
        checkpoints = _checkpoints(output, given)
        more = {"checkpoints": str(checkpoints), "save_every": save_every}
        result = make(Order("distill", "Distilled", source, output, given | more, python, environment), tell)
        for file in checkpoints.glob("*") if checkpoints.exists() else ():
            file.unlink()
        if checkpoints.exists():
            checkpoints.rmdir()
    numbers = result["perplexity"]
    alone = f", {numbers['without_teacher']:.2f} without the teacher" if compare else ""
    told_of = f"perplexity {numbers['before']:.2f} is {numbers['after']:.2f}{alone}"
    done(output, f"{told_of}, the teacher's {numbers['teacher']:.2f}")


def _checkpoints(output: Path, given: dict[str, Any]) -> Path:
    """Return where checkpoints of a training lie; refuse those of another one.

    Raises:
        OptimizeError: they are of a training with other settings.
    """
    output = output.expanduser().absolute()
    directory = output.with_name(f"{output.name}.checkpoints")
    settings, wanted = directory / "settings.json", json.dumps(given, sort_keys=True)
    if settings.exists() and settings.read_text() != wanted:
        raise OptimizeError(
            f"{directory} has checkpoints of a training with other settings; remove it, or name another -o"
        )
    if not output.exists():
        try:
            directory.mkdir(parents=True, exist_ok=True)
            settings.write_text(wanted)
        except OSError as error:
            raise OptimizeError(f"nothing can be written to {directory}: {error.strerror}") from error
    return directory
