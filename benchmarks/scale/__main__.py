"""Measure what a cluster costs as it grows: `make bench-scale`, or ``python -m benchmarks.scale --help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.gateway import machine
from benchmarks.gateway.document import replace_results
from benchmarks.scale.measure import MeasureError, free_names, mesh, one
from benchmarks.scale.report import Row, markdown
from benchmarks.scale.table import table_cost

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "scale.md"
MARK = "scale"
SIZES = (4, 8, 16, 32, 64)
BEYOND = (128,)
"""Sizes at which one node alone is looked at: to see what gives way first."""


def interrupt(*_: object) -> None:
    """Treat SIGTERM like Ctrl-C: every child is ended."""
    raise KeyboardInterrupt


def measure(quick: bool, console: Console) -> list[Row]:
    """Measure all sizes and return what came out."""
    seconds, repeats = (4.0, 20) if quick else (15.0, 200)
    processes = max(1, min(8, len(os.sched_getaffinity(0))))
    rows = []
    for count in (*SIZES, *BEYOND):
        console.print(f"  {count} nodes", highlight=False)
        rows.append(
            Row(
                nodes=count,
                mesh=mesh(count, processes, seconds) if count in SIZES else None,
                quiet=one(count, busy=False, seconds=seconds),
                busy=one(count, busy=True, seconds=seconds),
                table=table_cost(free_names(count), repeats),
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description="What a cluster costs as it grows."
    )
    parser.add_argument("--quick", action="store_true", help="4 seconds for each size in place of 15")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/scale.md")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    console = Console()
    try:
        rows = measure(options.quick, console)
    except (MeasureError, EOFError) as error:
        console.print(f"bench-scale: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    text = markdown(rows, machine.describe(), datetime.now(UTC).date().isoformat())
    console.print(Markdown(text))
    if options.docs:
        DOCUMENT.write_text(replace_results(DOCUMENT.read_text(), text, MARK))
        console.print(f"Written into {DOCUMENT.relative_to(ROOT)} too.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
