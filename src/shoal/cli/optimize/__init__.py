"""`shoal optimize`: make a model smaller and faster, measure that, and have a running cluster serve it."""

from __future__ import annotations

import typer

from shoal.cli.optimize import distill, evaluate, prune, quantize, rollout

app = typer.Typer(help="Make a model smaller and faster, and measure it.", no_args_is_help=True)
app.command("quantize")(quantize.quantize)
app.command("prune")(prune.prune)
app.command("distill")(distill.distill)
app.command("evaluate")(evaluate.evaluate)
app.command("rollout")(rollout.rollout)
