"""The headline: `make bench-headline`, or ``python -m benchmarks.headline --help``.

One batch of prompts is done one after the other with transformers, by one vLLM engine, and by `shoal batch run` on
clusters of one, two and three nodes of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shoal
from benchmarks.gateway import machine
from benchmarks.gateway.document import NoPlaceError, replace_results
from benchmarks.headline.results import Run, markdown, verdict
from benchmarks.headline.run import ARGS, Plan, loop, serve
from benchmarks.pooling.run import BenchError

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench-headline"
DOCUMENT = ROOT / "docs" / "performance.md"
FULL = Plan(prompts=96, tokens=128, looped=96)
QUICK = Plan(prompts=48, tokens=64, looped=8)


def main() -> int:
    """Run the benchmark; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.headline", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="half as many prompts with half as many tokens")
    parser.add_argument("--nodes", type=int, choices=(1, 2, 3), default=3, help="at most; an engine each")
    parser.add_argument(
        "--docs", action="store_true", help=f"put the table into {DOCUMENT.relative_to(ROOT)}"
    )
    parser.add_argument("--model", type=Path, help="its directory, in place of the demo's model")
    options = parser.parse_args()
    plan = replace(QUICK if options.quick else FULL, nodes=options.nodes)
    try:
        model = (options.model or _demo_model()).absolute()
        runs = [loop(model, plan, _tell)]
        with tempfile.TemporaryDirectory(prefix="bench-headline.") as name:
            section = {"path": str(model), "type": "small", "engines_per_node": 1, "args": ARGS}
            runs += serve(section, plan, Path(name), _tell)
        _report(runs, plan, model.name, options.docs)
    except (BenchError, NoPlaceError, OSError) as error:
        print(f"bench-headline: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _demo_model() -> Path:
    import get_model  # noqa: PLC0415 - in the environment of `make bench-headline`, as what it gets

    model = get_model.default_path()
    if not get_model.is_there(model):
        raise BenchError("there is no model: scripts/get_model.py gets it, or give --model DIRECTORY")
    return model


def _report(runs: list[Run], plan: Plan, model: str, docs: bool) -> None:
    about: dict[str, Any] = machine.describe() | {
        "date": datetime.now(UTC).date().isoformat(),
        "shoal": shoal.__version__,
        "model": model,
        "load": round(os.getloadavg()[2], 1),
    }
    table = markdown(runs, plan.prompts * plan.tokens)
    print(f"\n{table}\n{verdict(runs)}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    results = about | {"plan": asdict(plan), "runs": [asdict(run) for run in runs]}
    (OUTPUT / "results.json").write_text(json.dumps(results, indent=1))
    if docs:
        DOCUMENT.write_text(
            replace_results(DOCUMENT.read_text(), _section(about, plan, table, runs), "headline")
        )


def _section(about: dict[str, Any], plan: Plan, table: str, runs: list[Run]) -> str:
    part = f" (a) did {plan.looped} of the prompts, and its seconds are those for all." * (
        plan.looped < plan.prompts
    )
    return (
        f"Measured {about['date']}, Shoal {about['shoal']}, {about['cpu']}, {about['cores']} cores and "
        f"{about['memory_gb']} GB that all nodes share, load {about['load']} with all that runs there. "
        f"{about['model']}, {plan.prompts} prompts, {plan.tokens} tokens each.{part}\n\n{table}\n{verdict(runs)}\n"
    )


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
