"""`shoal doctor`: a support bundle of a running cluster, without secrets."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal import __version__
from shoal.cli.arguments import AsJson, OrderFile, OrderingKey
from shoal.cli.asked import Asked
from shoal.cli.control import NoAnswer, Refused
from shoal.config import Config
from shoal.config.explain import values
from shoal.deploy.unit import unit_name
from shoal.observe.scrub import Scrubber, secrets_in

REPORT = "/shoal/v1/report"
_STATUS = "/shoal/v1/status"
_TIMEOUT = 30.0  # s that a node may take to tell of itself


def doctor(
    config: OrderFile = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--url",
            "--at",
            metavar="HOST:PORT",
            help="Ask this node; without --config the secret is from SHOAL_SECRET.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: shoal-doctor-TIME.tar.gz here."),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=5000, help="Of each log.")] = 500,
    as_json: AsJson = False,
    key: OrderingKey = None,
) -> None:
    """Collect what helps to understand a running cluster into one file that holds no secrets.

    Of every node that can be reached: its configuration with secrets blanked, status, events, metrics, versions, facts
    about its machine, dates of its certificates, and the last lines of its log and of its engines'. What could not be
    reached is listed; of such nodes of this machine the bundle has what their directories hold. Exit status: 0, 1 when
    some node could not be reached, 2 when none could.
    """
    asked = Asked("doctor", config, at, key)
    status, reports, unreached = _asked(asked, lines)
    left = _left(asked.config, unreached, lines)
    if not reports and not left:
        asked.end(NoAnswer("\n  ".join(f"{name}: {why}" for name, why in unreached.items())))
    stem = time.strftime("shoal-doctor-%Y%m%d-%H%M%S")
    file = output or Path(f"{stem}.tar.gz")
    known = asked.config.model_dump(mode="json") if asked.config is not None else {}
    scrubber = Scrubber(secrets_in(known, os.environ) | ({key} if key else set()))
    try:
        _write(file, stem, _files(status, reports, left, unreached, asked.config), scrubber)
    except OSError as error:
        asked.fail(f"{file} cannot be written: {error.strerror}", 2)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "file": str(file),
                    "nodes": sorted(reports),
                    "left": sorted(left),
                    "unreached": unreached,
                },
                indent=2,
            )
        )
    else:
        typer.echo(f"{file}: {len(reports)} of {len(reports) + len(unreached)} nodes")
        for name, why in unreached.items():
            also = " (its logs on this machine are in the bundle)" if name in left else ""
            typer.echo(f"  not reached: {name}: {why}{also}", err=True)
    if not reports:
        raise typer.Exit(2)
    raise typer.Exit(1 if unreached else 0)


def _asked(asked: Asked, lines: int) -> tuple[dict[str, Any] | None, dict[str, Any], dict[str, str]]:
    """Return the status of the cluster (None if no node answers), the nodes' reports, and why others have none."""
    try:
        status = asked.document(_STATUS)
    except NoAnswer as error:
        if asked.config is None:
            asked.end(error)
        return None, {}, {node.name: "no node of the cluster answers" for node in asked.config.nodes}
    reports, unreached = {}, {}
    for member in status["members"]:
        name = member["name"]
        try:
            reports[name] = asked.question(REPORT, {"node": name, "lines": lines}, timeout=_TIMEOUT)
        except (Refused, NoAnswer) as error:
            unreached[name] = f"{member['state']}: {str(error).strip()}"
    return status, reports, unreached


def _left(config: Config | None, unreached: Iterable[str], lines: int) -> dict[str, Any]:
    """Return what nodes that could not be reached have left on this machine, if they were on it."""
    if config is None:
        return {}
    from shoal.node.left_behind import left_behind  # noqa: PLC0415 - where all answer nobody waits for it

    found = {name: left_behind(config, name, lines) for name in unreached}
    left = {name: report for name, report in found.items() if report is not None}
    for name, report in left.items():
        if journal := _journal(name, lines):
            report["logs"]["journal"] = journal
    return left


def _journal(node: str, lines: int) -> list[str]:
    """Return what systemd has kept of the output of a node that `shoal deploy` has installed."""
    command = ["journalctl", "--unit", unit_name(node), "--lines", str(lines), "--no-pager", "--quiet"]
    try:
        done = subprocess.run(
            [*command, "--output", "short-iso"], capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode(errors="replace").splitlines()


def _files(
    status: dict[str, Any] | None,
    reports: dict[str, Any],
    left: dict[str, Any],
    unreached: dict[str, str],
    config: Config | None,
) -> Iterator[tuple[str, Any]]:
    """Yield the files of the bundle: name, and text or a document."""
    about = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "by": f"shoal {__version__}",
        "cluster": status["cluster"] if status else config.cluster.name if config else "",
        "asked": status["node"] if status else "",
        "nodes": sorted(reports),
        "left": sorted(left),
        "unreached": unreached,
    }
    yield "about.json", about
    if status is not None:
        yield "status.json", status
    if config is not None:
        yield "config.json", values(config)
    for name, report in (reports | left).items():
        folder = f"nodes/{name.replace('/', '_')}"
        if "metrics" in report:
            yield f"{folder}/metrics.prom", report.pop("metrics")
        for log, lines in report.pop("logs", {}).items():
            yield f"{folder}/logs/{log.replace('/', '_')}.log", "\n".join(lines) + "\n"
        for part in ("status", "events", "config", "certificates", "machine"):
            if part in report:
                yield f"{folder}/{part}.json", report.pop(part)
        yield f"{folder}/node.json", report


def _write(file: Path, stem: str, files: Iterator[tuple[str, Any]], scrubber: Scrubber) -> None:
    """Write the bundle, readable for its owner alone.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as bundle:
        for name, content in files:
            if isinstance(content, str):
                text = scrubber.text(content)
            else:
                text = json.dumps(scrubber.tree(content), indent=2, ensure_ascii=False) + "\n"
            data = text.encode()
            entry = tarfile.TarInfo(f"{stem}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            bundle.addfile(entry, io.BytesIO(data))
