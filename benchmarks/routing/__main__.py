"""Compare routing policies and routers: `make bench-routing`, or ``python -m benchmarks.routing --help``."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import statistics
import sys
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.markup import escape

import shoal
from benchmarks.gateway import machine
from benchmarks.gateway.document import NoPlaceError, replace_results
from benchmarks.gateway.run import BenchError
from benchmarks.routing import report
from benchmarks.routing.chart import svg
from benchmarks.routing.plan import FULL, QUICK, Plan, Workloads
from benchmarks.routing.results import Row, judge, row_from_json
from benchmarks.routing.run import Run, raise_limits
from benchmarks.routing.targets import Target, targets
from benchmarks.routing.trace import TraceError
from lib.progress import duration

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench-routing"
DOCUMENT = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "images" / "bench-routing.svg"
MARK = "routing"
_WIDTH = 150  # columns of the tables where there is no terminal to ask


def chosen(names: str | None, quick: bool) -> list[Target]:
    """Return the targets to measure: those whose names hold one of those given, separated by commas, or all of the run.

    Raises:
        BenchError: there is none of a name.
    """
    known = targets()
    if names is None:
        return [target for target in known if target.quick or not quick]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if not any(name in target.name for target in known):
            raise BenchError(f"there is no target {name!r}; there are {', '.join(t.name for t in known)}.")
    return [target for target in known if any(name in target.name for name in wanted)]


def measure(
    plan: Plan, some: Sequence[Target], trace: Path | None, console: Console, *, virtual: bool
) -> dict[str, Any]:
    """Run everything; return the document with the results.

    Args:
        plan: what to run.
        some: whom to measure.
        trace: a file other than the excerpt.
        console: shows what is going on.
        virtual: in virtual time, Shoal's policies only.

    Raises:
        TraceError: the trace cannot be read.
    """
    raise_limits()
    workloads = Workloads(plan, trace)

    def say(text: str) -> None:
        console.print(f"  {text}", highlight=False)

    run = Run(plan, workloads, say)
    say("bounds, in virtual time")
    run.bounds()
    if virtual:
        run.simulate([target.policy for target in some if target.policy is not None])
    else:
        _run(run.measure(some))
    order = {name: number for number, name in enumerate(plan.requests)}
    rows = sorted(run.rows.values(), key=lambda row: (row.gateways, order[row.workload]))
    rows = [row for row in rows if row.samples or row.problems]
    measured = [sample for row in rows for sample in (*row.samples, *row.ladder) if sample.busy]
    return {
        "shoal": shoal.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "seeds": plan.seeds,
        "virtual": virtual,
        "trace": "the excerpt" if trace is None else trace.name,
        "about": {name: workloads.make(name, 1).about for name in plan.requests},
        "endless": run.endless,
        "busy_cores": max((sample.busy for sample in measured), default=0.0),
        "late_ms": 1e3 * statistics.median([sample.late for sample in measured]) if measured else 0.0,
        "rows": [row.as_json() for row in rows],
    }


def write(document: dict[str, Any], docs: bool, console: Console) -> bool:
    """Print the results and write them: JSON and picture always, into the documentation if asked to.

    Returns:
        Whether Shoal was measured and answered every request.

    Raises:
        NoPlaceError: the documentation has no place for them.
    """
    rows: list[Row] = [row_from_json(row) for row in document["rows"]]
    verdicts = judge(rows)
    report.show(console, rows, verdicts, document)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    promises = [dataclasses.asdict(verdict) for verdict in verdicts]
    (OUTPUT / "results.json").write_text(json.dumps(document | {"promises": promises}, indent=1))
    (OUTPUT / "results.svg").write_text(svg(rows))
    where = OUTPUT.relative_to(ROOT)
    console.print(f"\nNumbers: {where}/results.json, picture: {where}/results.svg")
    if docs:
        text = replace_results(DOCUMENT.read_text(), report.markdown(rows, verdicts, document), MARK)
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.write_text(svg(rows))
        DOCUMENT.write_text(text)
        console.print(f"Written into {DOCUMENT.relative_to(ROOT)} too.")
    ours = [row for row in rows if row.target.startswith("shoal")]
    return all(row.samples and not row.errors for row in ours)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or until a signal: one that is raised inside a callback of the loop would be lost.

    Raises:
        KeyboardInterrupt: a signal came; everything that `work` started is ended.
    """

    async def until_told() -> None:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        await task

    try:
        uvloop.run(until_told())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def interrupt(*_: object) -> None:
    """Treat SIGTERM and a closed terminal like Ctrl-C: everything that was started is ended."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 when Shoal answered every request, whatever the promises say."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.routing", description="Compare routing policies and routers."
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer targets, one run of each: under 10 minutes"
    )
    parser.add_argument("--targets", help="only those whose names hold one of these: affinity,smg")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="replay another trace, as Mooncake's are")
    parser.add_argument(
        "--virtual", action="store_true", help="Shoal's policies only, in this process and in virtual time"
    )
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
        else:
            plan = QUICK if options.quick else FULL
            some = chosen(options.targets, options.quick)
            document = measure(plan, some, options.trace, console, virtual=options.virtual)
            console.print(f"Measured in {duration(time.monotonic() - begun)}.")
        good = write(document, options.docs, console)
    except (BenchError, NoPlaceError, TraceError) as error:
        console.print(f"[red]The benchmark stopped:[/red] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; everything that was started is ended.")
        return 130
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
