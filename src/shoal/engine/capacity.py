"""How many requests an engine is given at the same time: from its arguments and from vLLM's own defaults.

vLLM computes ``max_num_seqs`` requests at once, in each data-parallel rank, and queues the rest, first come, first
served, without an end. It tells this number nobody: it is neither in ``/metrics`` nor in ``/v1/models``, and
``/server_info`` is there in development mode only (0.32). So it is read where vLLM reads it.

Where it cannot be known the larger default is taken: too much is what vLLM's own queue is for, with too little a GPU
would idle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shoal.engine.command import option
from shoal.engine.gpu import Gpu
from shoal.engine.spec import EngineSpec

HEADROOM = 1 / 8
"""Requests beyond those an engine computes at once, relative to these.

They wait in it, so that the step after the end of a request has another one in its place, and does not wait for the
gateways to notice. They are few, since they are beyond the reach of priorities.
"""

_GIB = 1024**3


def capacity(spec: EngineSpec, gpus: Sequence[Gpu] = ()) -> int:
    """Return the requests that an engine should have at most, 0 if that cannot be told.

    Args:
        spec: the engine.
        gpus: GPUs of its machine.
    """
    if spec.kind == "command":
        return 0  # its arguments are its own
    ranks = _number(spec.args, 1, "--data-parallel-size", "-dp")
    seqs = _number(spec.args, _default_seqs(spec, gpus), "--max-num-seqs")
    active = _number(spec.args, seqs, "--max-num-active-seqs")
    computed = ranks * min(seqs, active)
    # Beyond this one vLLM answers 503, which clients would get to see. It is for all ranks together.
    refused_at = _number(spec.args, 0, "--max-num-queued-reqs")
    most = computed + max(1, math.ceil(computed * HEADROOM)) if computed else 0
    return min(most, refused_at) if refused_at else most


def _default_seqs(spec: EngineSpec, gpus: Sequence[Gpu]) -> int:
    """Return the ``max_num_seqs`` of an engine that is not told any (vLLM 0.32, ``EngineArgs.get_batch_defaults``)."""
    if spec.kind == "sim":
        return 256
    if spec.gpus == ():
        workers = _number(spec.args, 1, "--tensor-parallel-size", "-tp")
        seqs = 128 * workers * _number(spec.args, 1, "--pipeline-parallel-size", "-pp")
    else:
        first = next((gpu for gpu in gpus if spec.gpus and gpu.index == spec.gpus[0]), None)
        large = first is None or first.total is None or first.total >= 160 * _GIB
        medium = first is not None and (first.total or 0) >= 70 * _GIB and "a100" not in first.name.lower()
        seqs = 1024 if large or medium else 256
    if option(spec.args, "--performance-mode") == "throughput":
        seqs *= 2
    return min(seqs, _number(spec.args, seqs, "--max-num-batched-tokens"))


def _number(args: Sequence[str], default: int, *names: str) -> int:
    value = option(args, *names)
    if value is None:
        return default
    try:
        return max(0, int(value))
    except ValueError:
        return _human(value)


def _human(value: str) -> int:
    """Read a number as vLLM writes large ones (``4k``, ``2.5K``); 0 if it is none."""
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
    try:
        return max(0, int(float(value[:-1]) * units[value[-1:]]))
    except (ValueError, KeyError, OverflowError):
        return 0
