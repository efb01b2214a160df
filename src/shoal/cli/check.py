"""`shoal check FILE`: whether the cluster would work, before it goes live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from shoal.config import Config, ConfigError, Node, load
from shoal.node import ports
from shoal.node.check import here
from shoal.node.check.facts import ModelFiles, facts_of, models_of
from shoal.node.check.findings import Finding, Level, failure, ok, worst
from shoal.node.check.together import together
from shoal.node.check.trial import trial
from shoal.node.errors import StartError
from shoal.node.identity import find_self, listen_address

_SIGNS = {Level.OK: ("ok  ", "green"), Level.WARNING: ("warn", "yellow"), Level.ERROR: ("FAIL", "red")}
_WIDE = 240  # columns for output that no person's terminal wraps


class _Report:
    """Shows findings as they come, or keeps them for JSON."""

    def __init__(self, as_json: bool) -> None:
        self.findings: list[Finding] = []
        self._console = None if as_json else Console(highlight=False)
        if self._console is not None and not self._console.is_terminal:
            self._console = Console(highlight=False, width=_WIDE)

    def add(self, findings: Sequence[Finding]) -> None:
        """Take findings."""
        self.findings += findings
        if self._console is None:
            return
        for finding in findings:
            sign, colour = _SIGNS[finding.level]
            self._console.print(Text.assemble((sign, f"bold {colour}"), f"  {finding.check}: {finding.text}"))
            if finding.fix:
                self._console.print(Text(f"      -> {finding.fix}", colour))

    def note(self, text: str) -> None:
        """Say what is going on."""
        if self._console is not None:
            self._console.print(Text(text, "dim"))

    def end(self) -> int:
        """Show what it comes to; return the exit status."""
        level = worst(self.findings)
        if self._console is None:
            body = {"result": str(level), "findings": msgspec.to_builtins(self.findings)}
            typer.echo(json.dumps(body, indent=2, ensure_ascii=False))
        else:
            errors = sum(f.level is Level.ERROR for f in self.findings)
            warnings = sum(f.level is Level.WARNING for f in self.findings)
            said = {
                Level.OK: "all is well",
                Level.WARNING: f"it will work; {warnings} to look at",
                Level.ERROR: f"{errors} to put right before this goes live",
            }
            self._console.print(Text(f"\n{said[level]}", f"bold {_SIGNS[level][1]}"))
        return 1 if level is Level.ERROR else 0


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The cluster's YAML file.")],
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="HOST:PORT", help="Which node of the file this machine is."),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for the checks of the other nodes.")
    ] = 60,
    alone: Annotated[bool, typer.Option("--alone", help="Check this machine only.")] = False,
    hashes: Annotated[
        bool,
        typer.Option("--hash/--no-hash", help="Compare the content of models, not only names and sizes."),
    ] = True,
    with_trial: Annotated[
        bool, typer.Option("--trial", help="Start an engine of each model and ask it for a token.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Find out whether the cluster would work, before it goes live. Run it on all nodes at about the same time.

    Exit status: 0 when it would (perhaps with warnings), 1 when something has to be put right, 2 when the file is
    wrong.
    """
    report = _Report(as_json)
    try:
        config = load(file).config
    except ConfigError as error:
        report.add([failure("config", str(error), "correct the file where it says so")])
        report.end()
        raise typer.Exit(2) from None
    report.add([ok("config", f"{file} is right")])
    try:
        me = find_self(config, node, lambda n: ports.is_free(listen_address(n), n.port))
    except StartError as error:
        text, _, fix = str(error).partition(". ")
        report.add([failure("node", text, fix or "say which node this is with --node HOST:PORT")])
        raise typer.Exit(report.end()) from None
    asyncio.run(_check(report, config, me, wait=wait, alone=alone, hashes=hashes, with_trial=with_trial))
    raise typer.Exit(report.end())


async def _check(
    report: _Report, config: Config, me: Node, *, wait: float, alone: bool, hashes: bool, with_trial: bool
) -> None:
    report.add(here.here(config, me))
    blocked = any(f.level is Level.ERROR and f.check == "ports" for f in report.findings)
    facts = await asyncio.to_thread(facts_of, config, me)
    reading = asyncio.create_task(asyncio.to_thread(models_of, config, me, hashed=hashes))

    async def models() -> tuple[ModelFiles, ...]:
        return await asyncio.shield(reading)

    if not alone and len(config.nodes) > 1 and not blocked:
        others = ", ".join(n.name for n in config.nodes if n.name != me.name)
        report.note(f"asks {others}: run this there now, too (waits up to {wait:g} s)")
        await together(config, me, facts, models, wait=wait, on_found=report.add)
    report.add(
        [*here.models_there(await models()), *await asyncio.to_thread(lambda: list(here.fits(config, me)))]
    )
    if with_trial:
        async for finding in trial(config, me):
            report.add([finding])
