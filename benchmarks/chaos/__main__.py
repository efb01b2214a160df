"""Break clusters on purpose: `make chaos`, or ``python -m benchmarks.chaos --help``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
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
from benchmarks.chaos import peers, plain, plain_report, report
from benchmarks.chaos import soak as soaking
from benchmarks.chaos.cluster import ChaosError
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.faults.base import NODES, Fault
from benchmarks.chaos.network import UnavailableError, make
from benchmarks.chaos.results import Row, row_from_json
from benchmarks.chaos.trials import FULL, QUICK, Plan, run_fault
from benchmarks.gateway import machine
from benchmarks.gateway.document import NoPlaceError, replace_results
from benchmarks.gateway.install import cache_folder
from benchmarks.gateway.run import Progress, alone
from lib.progress import duration

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "chaos"
DOCUMENT = ROOT / "docs" / "failure.md"
_WIDTH = 150  # columns of the table where there is no terminal to ask


def chosen(names: str | None) -> list[type[Fault]]:
    """Return the faults to try: those whose names begin as one of `names` (separated by commas), or all.

    Raises:
        ChaosError: there is none of a name.
    """
    if names is None:
        return list(FAULTS)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if not any(fault.name.startswith(name) for fault in FAULTS):
            known = ", ".join(f"{fault.name!r}" for fault in FAULTS)
            raise ChaosError(f"there is no fault {name!r}; there are {known}.")
    return [fault for fault in FAULTS if any(fault.name.startswith(name) for name in wanted)]


def describe(plan: Plan) -> dict[str, Any]:
    """Return what a reader has to know about a run."""
    network, reason = make(NODES, plan.network)
    network.close()
    return {
        "shoal": shoal.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "clients": plan.clients,
        "nodes": NODES,
        "network": network.kind + (f" ({reason})" if reason else ""),
        "load_average": os.getloadavg()[0],
    }


async def run(
    faults: Sequence[type[Fault]], plan: Plan, with_peers: bool, console: Console
) -> tuple[list[Row], dict[str, Any]]:
    """Try `faults`, on the peers too if asked to; return the rows and the document about them."""
    document = describe(plan)
    begun, cpu = time.monotonic(), time.process_time()
    cache = cache_folder()
    rows: list[Row] = []
    with Progress(console) as status:
        for fault in faults:
            rows += [await run_fault(fault, plan, cache, status.say)]
        if with_peers:
            rows += await peers.run([fault.name for fault in faults], plan, cache, status.say)
    document["load_cores"] = (time.process_time() - cpu) / (time.monotonic() - begun)
    return rows, document


def write(rows: Sequence[Row], document: dict[str, Any], docs: bool, console: Console) -> None:
    """Print the results and write them as JSON, and into the documentation if asked to.

    Raises:
        NoPlaceError: the documentation has no place for them.
    """
    report.show(console, rows, document)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "results.json").write_text(
        json.dumps(document | {"rows": [row.as_json() for row in rows]}, indent=1)
    )
    console.print(f"\nNumbers: {(OUTPUT / 'results.json').relative_to(ROOT)}")
    if docs:
        _into_document("faults", report.definitions(FAULTS), console)
        _into_document("results", report.markdown(rows, document), console)


async def run_soak(seconds: float, plan: Plan, docs: bool, console: Console) -> bool:
    """Let random faults strike for a while, print and write the result; return whether no byte was wrong."""
    with Progress(console) as status:
        result = await soaking.soak(seconds, plan.network, cache_folder(), status.say)
    lines = soaking.lines(result)
    console.print("\n".join(lines), markup=False)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "soak.json").write_text(json.dumps(result.as_json(), indent=1, default=str))
    console.print(f"\nNumbers: {(OUTPUT / 'soak.json').relative_to(ROOT)}")
    if docs:
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        _into_document(
            "soak", "\n".join([f"Measured {date}, Shoal {shoal.__version__}.", "", *lines, ""]), console
        )
    return result.row.wrong == 0


async def run_plain(names: str | None, trials: int | None, console: Console) -> Path:
    """Break groups of plain vLLM; return the file that the trials were written to."""
    faults = plain.chosen(names)
    document = plain.describe()
    with Progress(console) as status:
        found = await plain.run(faults, trials, status.say)
    folder = OUTPUT / "plain"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    plain.save(file, found, document)
    return file


def write_plain(files: Sequence[Path], docs: bool, console: Console) -> None:
    """Print what several runs of plain vLLM gave together, and put it into the documentation if asked to.

    Raises:
        NoPlaceError: the documentation has no place for it.
    """
    found, document = plain.load(files)
    plain_report.show(console, found, document)
    console.print(f"\nNumbers: {', '.join(str(file) for file in files)}")
    if docs:
        _into_document("plain groups", plain_report.markdown(found, document), console)


def _into_document(mark: str, text: str, console: Console) -> None:
    DOCUMENT.write_text(replace_results(DOCUMENT.read_text(), text, mark))
    console.print(f"Written into {DOCUMENT.relative_to(ROOT)} too.")


def interruptible(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work`; Ctrl-C, SIGTERM and a closed terminal cancel it, so that everything it started is ended.

    Raises:
        KeyboardInterrupt: it was cancelled.
    """

    async def watched() -> Any:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(watched())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 when everything was tried and no byte was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description="Break clusters on purpose."
    )
    parser.add_argument("--quick", action="store_true", help="3 trials of each fault and less load")
    parser.add_argument("--trials", type=int, help="of each fault; default 20")
    parser.add_argument("--faults", help="only these, by the beginnings of their names: 'engine,node p'")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        help="the faults of engines for other routers too; by default in a full run",
    )
    parser.add_argument("--network", choices=("auto", "namespaces", "loopback"), default="auto")
    parser.add_argument(
        "--soak", type=float, metavar="SECONDS", help="random faults for so long, nothing else"
    )
    parser.add_argument("--docs", action="store_true", help="put the results into docs/failure.md")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="faults of a group of plain vLLM (needs it) and nothing of Shoal's",
    )
    parser.add_argument(
        "--show",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="show the results of an earlier run again; with --plain of several ones together",
    )
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    size = QUICK if options.quick else FULL
    plan = Plan(options.trials or size.trials, size.clients, options.network)
    begun = time.monotonic()
    try:
        if options.plain:
            files = options.show
            if files is None:
                with alone(cache_folder()):
                    files = [interruptible(run_plain(options.faults, options.trials, console))]
            write_plain(files, options.docs, console)
            return 0
        if options.show is not None:
            document = json.loads(options.show[-1].read_text())
            write([row_from_json(row) for row in document.pop("rows")], document, options.docs, console)
            return 0
        with alone(cache_folder()):
            if options.soak is not None:
                return 0 if interruptible(run_soak(options.soak, plan, options.docs, console)) else 1
            with_peers = options.peers
            if with_peers is None:
                with_peers = not options.quick and options.faults is None
            rows, document = interruptible(run(chosen(options.faults), plan, with_peers, console))
        console.print(f"Took {duration(time.monotonic() - begun)}.")
        write(rows, document, options.docs, console)
    except (ChaosError, NoPlaceError, UnavailableError) as error:
        console.print(f"[red]Stopped:[/red] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; everything that was started is ended.")
        return 130
    return 0 if all(len(row.trials) == plan.trials or row.skipped for row in rows) and not _wrong(rows) else 1


def _wrong(rows: Sequence[Row]) -> int:
    """Return the number of answers with wrong bytes, Shoal's alone."""
    return sum(row.wrong for row in rows if row.system == "shoal")


if __name__ == "__main__":
    os.umask(0o077)  # configurations with a secret are written
    sys.exit(main())
