"""Embeddings through a cluster: `make bench-pooling`, or ``python -m benchmarks.pooling --help``.

A model of BERT-Large's shape in real vLLM, asked for embeddings: one engine directly, the same through Shoal, and two
engines through Shoal. They are asked in turn, so that what else the machine does hits all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shoal
from benchmarks.gateway import machine
from benchmarks.gateway.document import NoPlaceError, replace_results
from benchmarks.pooling.results import Samples, markdown
from benchmarks.pooling.run import BenchError, Plan, measure, running

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench-pooling"
DOCUMENT = ROOT / "docs" / "engines.md"
FULL = Plan(loads=(1, 8, 32), requests=12, rounds=5, words=64)
QUICK = Plan(loads=(1, 8), requests=4, rounds=3, words=32)
_ARGS = {"enforce-eager": True, "dtype": "bfloat16", "max-model-len": 512}


def main() -> int:
    """Run the benchmark; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pooling", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="shorter texts, fewer requests: minutes on two cores"
    )
    parser.add_argument(
        "--docs", action="store_true", help=f"put the table into {DOCUMENT.relative_to(ROOT)}"
    )
    parser.add_argument(
        "--model", type=Path, help="an encoder's directory, in place of BERT-Large with random weights"
    )
    parser.add_argument(
        "--sim", action="store_true", help="simulated engines: tries the benchmark, measures nothing"
    )
    options = parser.parse_args()
    plan = QUICK if options.quick or options.sim else FULL
    try:
        with tempfile.TemporaryDirectory(prefix="bench-pooling.") as name:
            section = _section(options.model, options.sim)
            with running(section, Path(name), _tell) as cluster:
                samples = measure(cluster, plan, _tell)
        _report(samples, plan, options.docs)
    except (BenchError, NoPlaceError, OSError) as error:
        print(f"bench-pooling: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _section(model: Path | None, sim: bool) -> dict[str, Any]:
    """Return the model's section of the configuration; the model is made where it is not there."""
    if sim:
        return {"path": "bert", "engine": "sim"}
    return {"path": str(model.absolute() if model else _bert_large()), "args": _ARGS}


def _bert_large() -> Path:
    import get_model  # noqa: PLC0415 - with the environment of `make setup`, as what it gets

    words = get_model.default_path(get_model.EMBEDDING_NAME)
    get_model.get(words, embedding=True)
    made = words.with_name("BERT-Large-random")
    if not (made / "config.json").exists():
        _tell("makes BERT-Large with random weights")
        with tempfile.TemporaryDirectory(dir=made.parent, prefix=f".{made.name}.") as name:
            work = Path(name) / made.name
            command = [sys.executable, "-m", "benchmarks.pooling.model", str(words), str(work)]
            if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
                raise BenchError("the model could not be made: `make setup` installs what that needs")
            work.rename(made)
    return made


def _report(samples: Samples, plan: Plan, docs: bool) -> None:
    about = machine.describe() | {
        "date": datetime.now(UTC).date().isoformat(),
        "shoal": shoal.__version__,
        "load": round(os.getloadavg()[2], 1),
    }
    table = markdown(samples, plan.loads)
    print(f"\n{table}", end="")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    rows = [
        {"target": target, "at_once": at_once, "rounds": [asdict(one) for one in rounds]}
        for (target, at_once), rounds in samples.items()
    ]
    (OUTPUT / "results.json").write_text(json.dumps(about | {"plan": asdict(plan), "rows": rows}, indent=1))
    if docs:
        sentence = (
            f"Measured {about['date']}, Shoal {about['shoal']}, {about['cpu']}, {about['cores']} cores, all on one "
            f"machine, load {about['load']} with all it does; texts of {plan.words} words, {plan.rounds} rounds.\n\n"
        )
        DOCUMENT.write_text(replace_results(DOCUMENT.read_text(), sentence + table, "pooling"))


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
