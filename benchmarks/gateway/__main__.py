"""Measure the gateway next to its peers: `make bench-gateway`, or ``python -m benchmarks.gateway --help``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks.gateway import report
from benchmarks.gateway.chart import svg
from benchmarks.gateway.document import NoPlaceError, replace_results
from benchmarks.gateway.measure import FULL, QUICK
from benchmarks.gateway.peers import TARGETS, Kind, Target
from benchmarks.gateway.results import Row, judge, row_from_json
from benchmarks.gateway.run import BenchError, run
from lib.progress import duration

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench-gateway"
DOCUMENT = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "images" / "bench-gateway.svg"
_WIDTH = 132  # columns of the tables where there is no terminal to ask


def chosen(names: str | None, quick: bool) -> list[Target]:
    """Return the targets to measure: those named, separated by commas, or all of a quick or full run.

    A name stands for every target that begins with it.

    Raises:
        BenchError: there is none of a name.
    """
    if names is None:
        return [target for target in TARGETS if target.quick or not quick]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if not any(target.name.startswith(name) for target in TARGETS):
            known = ", ".join(f"{target.name!r}" for target in TARGETS)
            raise BenchError(f"there is no target {name!r}; there are {known}.")
    return [target for target in TARGETS if any(target.name.startswith(name) for name in wanted)]


def write(rows: Sequence[Row], document: dict[str, Any], docs: bool, console: Console) -> None:
    """Print the results and write them: JSON and picture always, into the documentation if asked to.

    Raises:
        NoPlaceError: the documentation has no place for them.
    """
    verdicts = judge(rows, document["machine"]["cores"])
    report.show(console, rows, verdicts, document)
    results = {"rows": [row.as_json() for row in rows]}
    budgets = [{"held": verdict.held, "text": verdict.text} for verdict in verdicts]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "results.json").write_text(json.dumps(document | results | {"budgets": budgets}, indent=1))
    (OUTPUT / "results.svg").write_text(svg(rows))
    where = OUTPUT.relative_to(ROOT)
    console.print(f"\nNumbers: {where}/results.json, picture: {where}/results.svg")
    if docs:
        text = replace_results(DOCUMENT.read_text(), report.markdown(rows, verdicts, document))
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.write_text(svg(rows))
        DOCUMENT.write_text(text)
        console.print(f"Written into {DOCUMENT.relative_to(ROOT)} too.")


def interrupt(*_: object) -> None:
    """Treat SIGTERM and a closed terminal like Ctrl-C: everything that was started is ended."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 when Shoal was measured, whatever the budgets say."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway", description="Measure the gateway next to other routers."
    )
    parser.add_argument("--quick", action="store_true", help="fewer targets, shorter: under 3 minutes")
    parser.add_argument("--targets", help="only these, by the beginnings of their names: nginx,shoal")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/performance.md")
    parser.add_argument("--show", type=Path, metavar="JSON", help="show the results of an earlier run again")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    begun = time.monotonic()
    try:
        if options.show is not None:
            document = json.loads(options.show.read_text())
            rows = [row_from_json(row) for row in document.pop("rows")]
        else:
            rows, document = run(
                chosen(options.targets, options.quick), QUICK if options.quick else FULL, console
            )
            console.print(f"Measured in {duration(time.monotonic() - begun)}.")
        write(rows, document, options.docs, console)
    except (BenchError, NoPlaceError) as error:
        console.print(f"[red]The benchmark stopped:[/red] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; everything that was started is ended.")
        return 130
    return 0 if any(row.samples for row in rows if row.kind is Kind.SHOAL) or options.targets else 1


if __name__ == "__main__":
    sys.exit(main())
