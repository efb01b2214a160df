"""Memory of nodes and client during a large batch: `make bench-memory`, or ``python -m benchmarks.memory --help``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chaos.__main__ import interruptible
from benchmarks.chaos.cluster import ChaosError
from benchmarks.gateway.document import replace_results
from benchmarks.memory import report
from benchmarks.memory.run import MEGABYTE, measure

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "batch.md"


def main() -> int:
    """Measure, print, and write into the documentation if asked to; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_000, help="of the largest input, megabytes")
    parser.add_argument("--line", type=int, default=8_000, help="bytes of a line")
    parser.add_argument("--directory", type=Path, help="a disk with 3.7 times as much room as the input")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/batch.md")
    found = parser.parse_args()
    sizes = [found.size * MEGABYTE // 10, found.size * MEGABYTE]
    try:
        with tempfile.TemporaryDirectory(prefix="bench-memory-", dir=found.directory) as directory:
            peaks = interruptible(measure(Path(directory), sizes, found.line, print))
    except KeyboardInterrupt:
        return 130
    except ChaosError as error:
        print(f"bench-memory: {error}", file=sys.stderr)
        return 1
    about = (
        f"{os.cpu_count()} cores, {datetime.now(UTC).date().isoformat()}; two nodes with simulated engines, and "
        "`shoal batch run`. What was resident at most, since each process began:"
    )
    text = report.markdown(peaks, about)
    print(text)
    if found.docs:
        DOCUMENT.write_text(replace_results(DOCUMENT.read_text(), text, "memory"))
    return 1 if text.rstrip().endswith("FAIL") else 0


if __name__ == "__main__":
    sys.exit(main())
