"""`shoal plan`: what would run where and why, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from shoal.cli.apply import diff as compare
from shoal.cli.control import KEY_VARIABLE
from shoal.cli.plan_view import render
from shoal.config import Config, ConfigError, load
from shoal.config.hardware import load_hardware
from shoal.models.errors import ModelError
from shoal.models.profile import Profile, read_profile
from shoal.node.engine_options import engine_options
from shoal.node.hardware import described, here_as_yaml, seen
from shoal.node.known import profile_of
from shoal.node.plan_groups import PlanInput
from shoal.node.planner import plan_cluster

_WIDE = 240  # columns for output that no person's terminal wraps


def plan(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The cluster's YAML file.", show_default=False)
    ] = None,
    hardware: Annotated[
        Path | None,
        typer.Option(
            "--hardware", help="YAML file that describes the nodes' machines. Default: this machine for all."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[NAME=]DIR",
            help="Read a model's config.json (and safetensors headers) from this directory.",
        ),
    ] = None,
    diff: Annotated[
        bool,
        typer.Option(
            "--diff", help="Compare with the running cluster: what `shoal apply FILE` would do there."
        ),
    ] = False,
    at: Annotated[
        str | None, typer.Option("--at", metavar="HOST:PORT", help="With --diff: the node to ask.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", envvar=KEY_VARIABLE, show_envvar=True, help="With --diff: admin key."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    print_hardware: Annotated[
        bool, typer.Option("--print-hardware", help="Describe this machine for a --hardware file, and exit.")
    ] = False,
) -> None:
    """Tell what would run where and why, before anything starts: engines, GPUs, memory. Reads no weights.

    Exit status: 0 when everything fits, 1 when something does not (with what would), 2 when a file is wrong.
    """
    if print_hardware:
        typer.echo(here_as_yaml())
        return
    if file is None:
        typer.echo("shoal plan: name the cluster's file (`shoal plan FILE`)", err=True)
        raise typer.Exit(2)
    if diff:
        compare(file, at, key)
    try:
        config = load(file).config
        machines = (
            described(load_hardware(hardware, config), config, str(hardware))
            if hardware is not None
            else seen(config)
        )
        profiles, unknown = _profiles(config, model or [])
    except (ConfigError, ModelError) as error:
        typer.echo(f"shoal plan: {error}", err=True)
        raise typer.Exit(2) from None
    made = plan_cluster(PlanInput(config, machines, profiles, unknown))
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(made), indent=2, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_WIDE)
        console.print(render(made))
    raise typer.Exit(1 if made.refusals else 0)


def _profiles(config: Config, given: list[str]) -> tuple[dict[str, Profile], dict[str, str]]:
    """Return what is known of the models, and why nothing is known of the others.

    Raises:
        ModelError: `--model` names no model of the file, or a directory that cannot be used.
    """
    places = _places(config, given)
    profiles: dict[str, Profile] = {}
    unknown: dict[str, str] = {}
    for model in config.models:
        if model.engine != "vllm":
            continue
        if (place := places.get(model.name)) is not None:
            profiles[model.name] = read_profile(place, engine_options(model).dtype)
            continue
        try:
            profiles[model.name] = profile_of(model)
        except ModelError as error:
            unknown[model.name] = (
                f"{error}. So whether it fits cannot be told: run this where its files are, or name a directory with "
                "its config.json (`--model DIR`)"
            )
    return profiles, unknown


def _places(config: Config, given: list[str]) -> dict[str, Path]:
    names = [m.name for m in config.models if m.engine == "vllm"]
    places: dict[str, Path] = {}
    for entry in given:
        name, equals, directory = entry.partition("=")
        if not equals and len(names) == 1:
            name, directory = names[0], entry
        if name not in names or not directory:
            raise ModelError(
                f"--model {entry}: write NAME=DIR with the name of a model of the file ({', '.join(names)})"
            )
        places[name] = Path(directory)
    return places
