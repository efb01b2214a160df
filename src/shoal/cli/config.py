"""`shoal config`: check a configuration file, show what it comes to, and print its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shoal.config import Config, ConfigError, Loaded, Model, Node, json_schema, load
from shoal.config.errors import spell
from shoal.config.timers import INEQUALITIES, seconds

app = typer.Typer(help="Check, show and describe configuration files.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The cluster's YAML file.", show_default=False)]
_WIDE = 1000  # columns for output that no person's terminal wraps: a line stays a line for grep


@app.command()
def check(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Tell whether FILE is valid: exit status 0 and a summary, or 2 and every problem with its line and column."""
    loaded = _load(file)
    if as_json:
        problems = [str(problem) for problem in loaded.serving_problems()]
        told = {"file": str(file), "summary": list(summary(loaded.config)), "before_serving": problems}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    typer.echo(f"{file} is valid")
    for line in summary(loaded.config):
        typer.echo(f"  {line}")
    for problem in loaded.serving_problems():
        typer.echo(f"before it can start: {problem}", err=True)


@app.command()
def show(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print every setting as it is resolved and where it came from, and the timers. Secrets are hidden."""
    loaded = _load(file)
    if as_json:
        typer.echo(json.dumps(_as_json(loaded), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    console.print(_settings_table(loaded))
    console.print()
    console.print(_timers_table(loaded.config))
    console.print()
    for line in summary(loaded.config):
        console.print(Text(line))
    for problem in loaded.serving_problems():
        typer.echo(f"before it can start: {problem}", err=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of configuration files, for editors that complete and check YAML."""
    typer.echo(json.dumps(json_schema(), indent=2))


def summary(config: Config) -> Iterator[str]:
    """Yield a few lines that tell what a configuration is about."""
    yield f"nodes: {', '.join(map(_with_role, config.nodes))}"
    for model in config.models:
        yield f"model {model.name}: {_about(config, model)}"
    detection = seconds(config.cluster.detection_time)
    yield (
        f"cluster {config.cluster.name}: {'with' if config.cluster.secret else 'without'} a secret, "
        f"a lost node is noticed within {detection}"
    )
    yield f"fingerprint {config.agreed_hash()}, which must be the same on every node"


def _with_role(node: Node) -> str:
    if node.role == "standby":
        return f"{node.name} ({'hot' if node.is_hot else 'warm'} standby)"
    return node.name if node.role == "serve" else f"{node.name} ({node.role})"


def _about(config: Config, model: Model) -> str:
    policy = model.policy or config.routing.policy
    if model.engine == "external":
        return f"external engines at {', '.join(a.url for a in model.addresses)}, {policy}"
    count = len(config.nodes_of(model))
    nodes = "1 node" if count == 1 else f"{count} nodes"
    what = model.path or (model.command or ("",))[0]
    return f"{what}, type {model.type}, engine {model.engine}, on {nodes}, {policy}"


def _load(file: Path) -> Loaded:
    try:
        return load(file)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _settings_table(loaded: Loaded) -> Table:
    table = Table("setting", "value", "from", box=None, pad_edge=False, header_style="bold")
    table.columns[1].overflow = "fold"
    for setting in loaded.settings():
        given = setting.source.kind != "default"
        value = setting.text
        if setting.path == ("gateway", "workers") and setting.value == "auto":
            value = f"auto ({loaded.config.gateway.worker_count()} on this machine)"
        style = "" if given else "dim"
        table.add_row(Text(setting.name, style), Text(value, style), Text(str(setting.source), style))
    return table


def _timers_table(config: Config) -> Table:
    """Return what must hold between the timers, with the present values."""
    table = Table("timer", "is", "must be", "otherwise", box=None, pad_edge=False, header_style="bold")
    for rule in INEQUALITIES:
        if not rule.applies(config):
            continue
        left, right = rule.sides(config)
        bound = f"{rule.relation} {rule.right} = {seconds(right)}"
        table.add_row(Text(spell(rule.left)), Text(seconds(left)), Text(bound), Text(rule.reason))
    return table


def _as_json(loaded: Loaded) -> dict[str, Any]:
    config = loaded.config
    return {
        "file": str(loaded.path),
        "fingerprint": config.agreed_hash(),
        "detection_time": config.cluster.detection_time,
        "settings": [
            {
                "name": setting.name,
                "value": setting.value,
                "from": setting.source.kind,
                "line": setting.source.line,
                "variables": setting.source.variables,
                "source": setting.source.text,
            }
            for setting in loaded.settings()
        ],
        "timers": [
            {
                "name": spell(rule.left),
                "value": rule.sides(config)[0],
                "relation": rule.relation,
                "bound": rule.right,
                "bound_value": rule.sides(config)[1],
                "reason": rule.reason,
            }
            for rule in INEQUALITIES
            if rule.applies(config)
        ],
        "before_serving": [str(problem) for problem in loaded.serving_problems()],
    }
