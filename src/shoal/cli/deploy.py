"""`shoal deploy FILE`: Shoal on all machines of a cluster, over SSH."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from shoal.config import ConfigError, Loaded, load
from shoal.deploy.plan import Place, Work
from shoal.deploy.release import (
    Installation,
    NodeFiles,
    ReleaseError,
    extras_for,
    installation,
    node_files,
)
from shoal.deploy.roll import DeployError, Deployment, Options
from shoal.deploy.ssh import machines

_PREFIX = "/opt/shoal"


def deploy(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The cluster's YAML file.")],
    wheels: Annotated[
        Path | None,
        typer.Option(
            "--wheels",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Install from this directory of wheels, for machines without internet. Default: pip's index there.",
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", help="Of Shoal. Default: the one in --wheels, else this program's."),
    ] = None,
    extras: Annotated[
        str | None,
        typer.Option(
            "--extras",
            help="Of Shoal, with commas. Default: vllm, where a model needs it in Shoal's environment.",
        ),
    ] = None,
    pip_args: Annotated[
        str, typer.Option("--pip-args", help="Further arguments of `pip install` on the machines.")
    ] = "",
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix", help="Directory on the machines; {machine} in it stands for the destination of ssh."
        ),
    ] = _PREFIX,
    python: Annotated[
        str | None,
        typer.Option("--python", help="Interpreter on the machines. Default: one that is new enough."),
    ] = None,
    ssh: Annotated[
        list[str] | None,
        typer.Option(
            "--ssh",
            metavar="NODE=DESTINATION",
            help="How ssh reaches a node's machine, `local` for this one. Default: the node's host.",
        ),
    ] = None,
    ssh_config: Annotated[
        Path | None, typer.Option("--ssh-config", help="Of ssh, in place of ~/.ssh/config.", exists=True)
    ] = None,
    login: Annotated[
        str | None, typer.Option("--login", help="User to log in as. Default: what ssh does by itself.")
    ] = None,
    sudo: Annotated[bool, typer.Option("--sudo", help="Become root on the machines.")] = False,
    user: Annotated[
        str | None,
        typer.Option("--user", help="User that nodes run as under systemd. Default: who is logged in as."),
    ] = None,
    systemd: Annotated[
        bool,
        typer.Option("--systemd/--no-systemd", help="As a systemd unit, or in a session of its own."),
    ] = True,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="A variable of this environment that nodes get, too."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NODE", help="Only this node of the file; repeatable."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, help="Machines to install on at the same time.")
    ] = 4,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds for a node and its engines to be ready.")
    ] = 1800,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the release before: version, file and variables.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the nodes and their engines.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Print what is where, and do nothing.")] = False,
    units: Annotated[
        bool, typer.Option("--print-units", help="Print the nodes' systemd units, and do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: JSON for programs.")] = False,
) -> None:
    """Install or update Shoal on all machines of FILE over SSH, and start its nodes, one after the other.

    Each node must be ready, and the cluster have as many engines as before, until the next one's turn comes; the
    first failure stops everything. Run again, it changes what is not as it should be, and nothing else. Exit status: 0
    when all is as it should be, 1 when it stopped, 2 when the file or the options are wrong.
    """
    try:
        loaded = load(file)
        loaded.require_servable()
        chosen = extras_for(loaded) if extras is None else tuple(e for e in extras.split(",") if e)
        wanted = installation(wheels, version, chosen, shlex.split(pip_args))
        places = _places(loaded, prefix, ssh or [], login, systemd=systemd, user=user, only=only or [])
        files = node_files(loaded, env or [])
    except (ConfigError, ReleaseError) as error:
        _fail(str(error), 2)
    if units:
        for place in places:
            # Whoever is logged in as is not asked for a preview.
            typer.echo(replace(place, systemd=True, user=user or login or "root").unit_text)
        return
    ssh_options = ["-F", str(ssh_config)] if ssh_config else []
    options = Options(python, sudo, parallel, timeout)
    with machines([p.destination for p in places], ssh_options, python=python, sudo=sudo) as reached:
        deployment = Deployment(places, reached, options, typer.echo)
        try:
            deployment.survey()
            if status:
                _show(deployment, as_json=as_json)
            elif stop:
                deployment.stop()
            elif rollback:
                _roll_back(deployment, dry_run=dry_run)
            else:
                _deploy(deployment, wanted, files, dry_run=dry_run)
        except DeployError as error:
            _fail(str(error), 1)


def _deploy(deployment: Deployment, wanted: Installation, files: NodeFiles, *, dry_run: bool) -> None:
    works = deployment.works(wanted, files)
    if all(work.nothing for work in works):
        typer.echo(f"nothing to do: {len(works)} nodes run {wanted.id} with this configuration")
        return
    if dry_run:
        for line in _told(deployment, works, wanted, files):
            typer.echo(line)
        return
    deployment.install(works, wanted)
    deployment.roll(works, wanted, files)
    deployment.tidy()
    typer.echo(f"done: {len(works)} nodes run {wanted.id}")


def _roll_back(deployment: Deployment, *, dry_run: bool) -> None:
    for node, facts in deployment.facts.items():
        former = facts["nodes"][node]["former"]
        typer.echo(
            f"{node}: {'would go' if dry_run else 'goes'} back to {former['install'] if former else 'nothing'}"
        )
    if not dry_run:
        deployment.roll_back(list(deployment.places))
        typer.echo("done: all of them have their former release")


def _told(deployment: Deployment, works: Sequence[Work], wanted: Installation, files: NodeFiles) -> list[str]:
    """Return what would be done, in the order in which it would be."""
    lines = []
    source = f"{len(wanted.wheels)} wheels" if wanted.wheels else "pip's index there"
    installed = set()
    for work in works:
        place = deployment.places[work.node]
        if work.install and (place.destination, place.prefix) not in installed:
            installed.add((place.destination, place.prefix))
            lines.append(f"{work.node}: install {' '.join(wanted.requirements)} from {source}")
            lines.append(f"    into {place.prefix}/{wanted.id} with {deployment.facts[work.node]['python']}")
    for work in works:
        place = deployment.places[work.node]
        if work.nothing:
            lines.append(f"{work.node}: nothing to do")
            continue
        if work.release:
            names = ", ".join(sorted(files.content))
            lines.append(f"{work.node}: write {names} (mode 0600) to {place.home}")
            lines.append(f"    point {place.prefix}/current to {wanted.id}")
        if work.restart:
            how = f"unit {place.unit}" if place.unit else "a process in a session of its own"
            lines.append(
                f"{work.node}: {'restart' if work.running else 'start'} {how}: {'; '.join(work.reasons)}"
            )
            lines.append(
                "    wait until it is ready" + (" and the cluster's capacity is back" * work.running)
            )
    return lines


def _show(deployment: Deployment, *, as_json: bool) -> None:
    rows = []
    for node, place in deployment.places.items():
        there = deployment.facts[node]["nodes"][node]
        seen = deployment.status_of(place) if there["pid"] else None
        own = next((m for m in seen["members"] if m["name"] == node), None) if seen else None
        engines = own["engines"] if own else []
        rows.append(
            {
                "node": node,
                "machine": place.destination,
                "release": (there["release"] or {}).get("install"),
                "former": (there["former"] or {}).get("install"),
                "runs": (there["started"] or {}).get("install"),
                "pid": there["pid"],
                "state": own["state"] if own else None,
                "engines": len(engines),
                "ready": sum(e["state"] == "ready" for e in engines),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        runs = (
            f"runs {row['runs'] or 'an unknown release'} (process {row['pid']})"
            if row["pid"]
            else "does not run"
        )
        state = f", {row['state']}, {row['ready']} of {row['engines']} engines ready" if row["state"] else ""
        former = f", former release {row['former']}" if row["former"] else ""
        typer.echo(f"{row['node']}: {runs}{state}{former}")


def _places(
    loaded: Loaded,
    prefix: str,
    ssh: Sequence[str],
    login: str | None,
    *,
    systemd: bool,
    user: str | None,
    only: Sequence[str],
) -> list[Place]:
    """Return where each node goes.

    Raises:
        ReleaseError: an option names a node that the file has not, or a directory that is not absolute.
    """
    nodes = {node.name: node for node in loaded.config.nodes}
    by_node = {name: destination for name, _, destination in (given.partition("=") for given in ssh)}
    for name in (*by_node, *only):
        if name not in nodes:
            raise ReleaseError(f"{name} is none of the file's nodes: {', '.join(nodes)}")
    if not prefix.startswith("/"):
        raise ReleaseError("--prefix must be an absolute path")
    destinations = {
        name: by_node.get(name) or (f"{login}@{node.host}" if login else node.host)
        for name, node in nodes.items()
    }
    return [
        Place(
            node=name,
            destination=destinations[name],
            prefix=prefix.replace("{machine}", destinations[name]).rstrip("/"),
            systemd=systemd,
            user=user or "",
            drain_timeout=loaded.config.recovery.drain_timeout,
        )
        for name in nodes
        if not only or name in only
    ]


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"shoal deploy: {message}", err=True)
    raise typer.Exit(status)
