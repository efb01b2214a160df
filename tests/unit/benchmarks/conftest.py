"""The benchmarks are no installed package: they are found from the repository's root, whoever starts pytest."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[3])
if ROOT not in sys.path:
    sys.path.append(ROOT)
