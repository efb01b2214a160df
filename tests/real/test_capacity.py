"""What Shoal takes for the limits of an engine is what vLLM takes for them, on this machine and in this version."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.engine.capacity import HEADROOM, capacity
from shoal.engine.gpu import list_gpus
from shoal.engine.spec import EngineSpec

LISTS: list[list[str]] = [
    [],
    ["--max-num-seqs", "7"],
    ["--max_num_seqs=7", "--performance-mode", "throughput"],
    ["--performance-mode", "throughput"],
    ["--max-num-batched-tokens", "64", "--max-model-len", "64"],
    ["--max-num-seqs", "16", "--max-num-active-seqs", "8"],
]
PROGRAM = """
import json, sys
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
found = []
for args in json.loads(sys.argv[2]):
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    given = parser.parse_args(["--model", sys.argv[1], "--dtype", "float32", *args])
    config = AsyncEngineArgs.from_cli_args(given).create_engine_config(UsageContext.OPENAI_API_SERVER)
    limits = config.scheduler_config
    found.append(min(limits.max_num_seqs, limits.max_num_active_seqs or limits.max_num_seqs))
print("found", json.dumps(found))
"""


@pytest.mark.rare  # changes with vLLM's version only
def test_the_limits_are_those_of_vllm(model_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model_path), json.dumps(LISTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(lines[0].removeprefix("found "))
    gpus = list_gpus()
    ours = [
        capacity(
            EngineSpec(
                id="m-0",
                model="m",
                kind="vllm",
                model_path=str(model_path),
                served_name="m",
                args=tuple(args),
                gpus=(0,) if gpus else (),
            ),
            gpus,
        )
        for args in LISTS
    ]
    assert ours == [seqs + max(1, math.ceil(seqs * HEADROOM)) for seqs in found], found
