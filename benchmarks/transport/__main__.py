"""Measure what carries requests between nodes: `make bench-transport`, or ``python -m benchmarks.transport --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.__main__ import interruptible
from benchmarks.chaos.cluster import ChaosError
from benchmarks.chaos.network import UnavailableError
from benchmarks.gateway.document import replace_results
from benchmarks.gateway.machine import cpu_model
from benchmarks.transport import report
from benchmarks.transport.run import PROTOCOLS, QUICK, Length, Row, measure
from lib.broker import BrokerError
from lib.debian import MissingError

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench-transport"
DOCUMENT = ROOT / "docs" / "communication.md"


Results = tuple[list[Row], list[Row], dict[str, str]]
"""Of links, of deaths, and why which protocol was not measured."""


async def _measure(names: list[str], length: Length, console: Console) -> Results:
    rows: list[Row] = []
    deaths: list[Row] = []
    absent: dict[str, str] = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bench-transport-") as directory:
            try:
                seen, died = await measure(name, length, Path(directory), console.log)
            except MissingError as error:
                absent[name] = str(error)
                continue
        rows += seen
        deaths.append(died)
    return rows, deaths, absent


def main() -> int:
    """Measure, print, and write into the documentation if asked to; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="those to measure")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/communication.md")
    found = parser.parse_args()
    names = [name for name in found.protocols.split(",") if name]
    if unknown := [name for name in names if name not in PROTOCOLS]:
        parser.error(f"there is no protocol {unknown[0]}; there are {', '.join(PROTOCOLS)}")
    console = Console(width=None if sys.stdout.isatty() else 150)
    length = QUICK if found.quick else Length()
    began = time.monotonic()
    try:
        rows, deaths, absent = interruptible(_measure(names, length, console))
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    except (UnavailableError, ChaosError, BrokerError) as error:
        console.print(f"[red]{error}[/red]")
        return 1
    rows.sort(key=lambda row: (row.link, names.index(row.protocol)))
    table = Table(*report.head())
    for row in rows:
        table.add_row(*report.cells(row))
    console.print(table)
    for died in deaths:
        lost = f"{died.failed} of {died.asked} lost {died.why or ''}".rstrip()
        console.print(f"a node dies, {died.protocol}: {lost}, longest wait {died.longest:,.0f} ms")
    for row in rows:
        if row.failed:
            console.print(f"{row.protocol}, {row.link}: {row.why}")
    sentences = report.verdicts(rows, deaths)
    for sentence in (*sentences, *report.missing(absent)):
        console.print(sentence)
    console.print(f"{time.monotonic() - began:.0f} s")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    results = {"rows": [row.as_json() for row in (*rows, *deaths)], "not measured": absent}
    (OUTPUT / "results.json").write_text(json.dumps(results, indent=1))
    if found.docs:
        machine = f"{os.cpu_count()} cores, {cpu_model(Path('/proc/cpuinfo').read_text())}"
        text = report.markdown(rows, deaths, absent, machine, length.streams)
        DOCUMENT.write_text(replace_results(DOCUMENT.read_text(), text))
    return 1 if any(sentence.endswith("FAIL") for sentence in sentences) else 0


if __name__ == "__main__":
    sys.exit(main())
