"""`shoal keys`: make, list and revoke API keys in a file of keys. Nodes take the file's changes within a second."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shoal.cli.arguments import AsJson
from shoal.cli.control import NoAnswer, ask_here
from shoal.config import Config, ConfigError, load
from shoal.config.keys import KeyEntry
from shoal.config.keys_file import add_key, read_keys, remove_key
from shoal.gateway.keys import digest_of

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

_PREFIX = "sk-shoal-"
_RANDOM = 32  # bytes: nobody guesses 256 bits, so a fast hash is enough
_WIDE = 300

Cluster = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The cluster's YAML file; its gateway.keys.file is meant."),
]
File = Annotated[Path | None, typer.Option("--file", "-f", help="The file of keys itself.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is: a person, a team, a service.")],
    config: Cluster = None,
    file: File = None,
    admin: Annotated[bool, typer.Option("--admin", help="It opens /shoal/* too.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model it may use; may be given again. Default: all."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Limit.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Limit, prompts and answers together.")
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Limit of requests open at once.")] = None,
    priority: Annotated[int, typer.Option(help="Of its requests; lower is served earlier.")] = 0,
    expires: Annotated[
        str | None, typer.Option(help="From when on it is not valid: 2027-01-31, or 2027-01-31T12:00:00Z.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, print it this one time, and write its hash and limits into the file of keys.

    Exit status: 0, or 2 when the file or an option is wrong, or has the name already.
    """
    path = _file(config, file)
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM)
    given: dict[str, Any] = {
        "name": name,
        "hash": f"sha256:{digest_of(secret.encode()).hex()}",
        "role": "admin" if admin else None,
        "models": model or None,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_concurrent": max_concurrent,
        "priority": priority or None,
        "expires": expires,
    }
    try:
        add_key(path, {key: value for key, value in given.items() if value is not None})
    except ConfigError as error:
        raise _fail(error) from None
    if as_json:
        typer.echo(json.dumps({"name": name, "key": secret, "file": str(path)}))
        return
    typer.echo(secret)
    typer.echo(f"Written to {path} as a hash. This is the only time the key is shown.", err=True)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    config: Cluster = None,
    file: File = None,
    as_json: AsJson = False,
) -> None:
    """Take a key out of the file of keys. Requests under way finish.

    Exit status: 0, or 2 when there is no such key or the file is wrong.
    """
    path = _file(config, file)
    try:
        found = remove_key(path, name)
        names = ", ".join(entry.name for entry in read_keys(path)) or "none"
    except ConfigError as error:
        raise _fail(error) from None
    if not found:
        typer.echo(f"shoal keys: there is no key {name} in {path}; there are: {names}", err=True)
        raise typer.Exit(2)
    if as_json:
        typer.echo(json.dumps({"revoked": name, "file": str(path)}))
        return
    typer.echo(f"revoked {name}: nodes that see {path} refuse it within a second")


@app.command("list")
def list_(
    config: Cluster = None,
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show the keys with their limits and, where nodes of the cluster run on this machine, what these have counted."""
    path = _file(config, file)
    try:
        entries = read_keys(path)
        cluster = load(config).config if config is not None else None
    except ConfigError as error:
        raise _fail(error) from None
    used, nodes = _used(cluster) if cluster is not None else ({}, [])
    if as_json:
        keys = [
            entry.model_dump(mode="json", exclude={"hash"}) | {"used": used.get(entry.name, _NOTHING)}
            for entry in entries
        ]
        typer.echo(json.dumps({"file": str(path), "nodes": nodes, "keys": keys}, indent=2))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    console.print(_table(entries, used if nodes else None))
    if nodes:
        console.print(f"counted since their start by {', '.join(nodes)}", style="dim")


_COUNTS = ("requests", "prompt_tokens", "completion_tokens", "limited")
_NOTHING = dict.fromkeys(("open", *_COUNTS), 0)


def _used(config: Config) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return what each key has used through the nodes of this machine, and which nodes these are."""
    used: dict[str, dict[str, int]] = {}
    nodes = []
    for node in config.nodes:
        try:
            document = ask_here(config, node.name, "/shoal/v1/keys")
        except NoAnswer:
            continue
        nodes.append(node.name)
        for key in document:
            total = used.setdefault(key["name"], dict(_NOTHING))
            total["open"] += key["open"]
            for counts in key["used"].values():
                for what in _COUNTS:
                    total[what] += counts[what]
    return used, nodes


def _table(entries: tuple[KeyEntry, ...], used: dict[str, dict[str, int]] | None) -> Table:
    columns = ["name", "role", "models", "requests/min", "tokens/min", "concurrent", "priority", "expires"]
    if used is not None:
        columns += ["open", "requests", "prompt tokens", "completion tokens", "limited"]
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for entry in entries:
        row = [
            entry.name,
            entry.role,
            "all" if entry.models is None else ", ".join(entry.models),
            *("-" if n is None else str(n) for n in _limits(entry)),
            str(entry.priority),
            entry.expires.isoformat() if entry.expires is not None else "never",
        ]
        if used is not None:
            row += [str(used.get(entry.name, _NOTHING)[what]) for what in ("open", *_COUNTS)]
        table.add_row(*row)
    return table


def _limits(entry: KeyEntry) -> tuple[int | None, int | None, int | None]:
    return entry.requests_per_minute, entry.tokens_per_minute, entry.max_concurrent


def _file(config: Path | None, file: Path | None) -> Path:
    """Return the file of keys that is meant."""
    if (config is None) == (file is None):
        typer.echo("shoal keys: give --config CLUSTER.YAML or --file KEYS.YAML, one of them", err=True)
        raise typer.Exit(2)
    if file is not None:
        return file
    assert config is not None
    try:
        path = load(config).config.gateway.keys.file
    except ConfigError as error:
        raise _fail(error) from None
    if path is None:
        typer.echo(
            f"shoal keys: {config} names no file of keys; write `keys: {{file: keys.yaml}}` under `gateway`",
            err=True,
        )
        raise typer.Exit(2)
    return path


def _fail(error: ConfigError) -> typer.Exit:
    typer.echo(f"shoal keys: {error}", err=True)
    return typer.Exit(2)
