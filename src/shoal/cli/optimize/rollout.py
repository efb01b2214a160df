"""`shoal optimize rollout`: a running cluster goes on with another form of a model, if its canary is good enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from shoal.cli.apply import ask_apply, fail, follow, load_for
from shoal.cli.arguments import OrderingKey
from shoal.cli.asked import node_url
from shoal.cli.control import NoAnswer, Refused
from shoal.cli.optimize.common import Text, model_directory
from shoal.config import Config
from shoal.config.model import Model
from shoal.config.shared import shared
from shoal.optimize.compare import share
from shoal.optimize.errors import OptimizeError
from shoal.optimize.texts import TextError, beginnings, read_texts

_COMMAND = "optimize rollout"


def rollout(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The model as it is to be served.", show_default=False)
    ],
    file: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="The cluster's file.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option(help="Which model of FILE it replaces. Default: the only one.")
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Change one of the model's `args` with it; NAME= drops it. May be given again.",
        ),
    ] = None,
    min_agreement: Annotated[
        str,
        typer.Option(help="Go back if the canary's likeliest next word is the others' less often than this."),
    ] = "60%",
    max_slower: Annotated[
        float,
        typer.Option(
            min=0.01, help="Go back if the canary's clients wait longer than others by this factor."
        ),
    ] = 1.5,
    watch: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="How long the canary serves beside the others before it is judged."
        ),
    ] = 60,
    prompts: Annotated[int, typer.Option(min=1, max=1000, help="Beginnings of texts it is asked.")] = 32,
    text: Text = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="HOST:PORT", help="The node that leads. Default: the first of FILE that answers."
        ),
    ] = None,
    key: OrderingKey = None,
) -> None:
    """Have a running cluster serve DIR in place of a model, engine by engine, or as before if it is not good enough.

    The first engine is the canary: its answers are compared with those of an engine that serves the former model before
    it gets any request, and the time its clients wait with that of the others while it serves beside them. Then all
    others follow, as with `shoal apply`. Exit status: 0 when the cluster serves DIR, 1 when it was refused or rolled
    back, 2 when nobody could be asked.
    """
    try:
        path, args = model_directory(directory), _args(arg or [])
        agreement = share(min_agreement)
        if not 0 <= agreement <= 1:
            raise OptimizeError(f"--min-agreement {min_agreement} is no share; write 60% or 0.6")
        texts = beginnings(read_texts(text, held_out=True), prompts)
        terms = {
            "prompts": texts,
            "agreement": agreement,
            "slower": max_slower,
            "watch": watch,
        }
        config, url = load_for(_COMMAND, file), node_url(at) if at else None
        replaced = _replaced(config, model)
        document = _document(config, replaced, path, args)
    except (OptimizeError, TextError) as error:
        fail(_COMMAND, str(error), 2)
    try:
        for change in ask_apply(config, url, {"dry": True}, key, document)["changes"]:
            if not change["what"].startswith(f"model {replaced.name}: "):
                raise Refused(
                    f"{file} differs from what runs in more than this model ({change['what']}): `shoal apply` it first"
                )
        if ask_apply(config, url, {"terms": terms}, key, document)["id"] is None:
            typer.echo(f"the cluster serves {path} already")
            return
        state = follow(config, url, key)
    except Refused as error:
        fail(_COMMAND, str(error), 1)
    except NoAnswer as error:
        fail(_COMMAND, f"no node could be asked:\n{error}", 2)
    if state == "applied":
        typer.echo(f"now write it into {file}, too: `path: {path}` of model {replaced.name}")
    raise typer.Exit(0 if state == "applied" else 1)


def _replaced(config: Config, name: str | None) -> Model:
    names = ", ".join(m.name for m in config.models)
    if name is None and len(config.models) > 1:
        raise OptimizeError(f"which model? Name one of {names} with --model")
    found = next((m for m in config.models if name in {None, m.name}), None)
    if found is None:
        raise OptimizeError(f"the file has no model {name}; it has {names}")
    if found.path is None:
        raise OptimizeError(f"model {found.name} has no `path`: Shoal does not start its engines")
    return found


def _document(config: Config, replaced: Model, path: Path, args: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with another path for one model, and other arguments; its name stays."""
    document = shared(config)
    models = document["models"] if config.several else [document["model"]]
    entry = next(m for m, known in zip(models, config.models, strict=True) if known is replaced)
    entry |= {"path": str(path), "name": replaced.name}
    entry.pop("sha256", None)  # of the former files
    if args:
        if not isinstance(replaced.args, dict):
            raise OptimizeError(
                f"the `args` of model {replaced.name} are a list: --arg changes a mapping only"
            )
        changed = entry.get("args", {}) | args
        entry["args"] = {name: value for name, value in changed.items() if value is not None}
    return document


def _args(given: list[str]) -> dict[str, Any]:
    """Return arguments as YAML has them; None for those that are dropped."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise OptimizeError(f"--arg {one}: write NAME=VALUE, or NAME= to drop it")
        try:
            found[name] = YAML(typ="safe").load(value) if value else None
        except YAMLError:
            found[name] = value
    return found
