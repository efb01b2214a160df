"""The place of a simulated engine's process in a group of nodes: vLLM's ``--nnodes`` and what goes with it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EXECUTE_TIMEOUT = "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"
"""vLLM's variable: seconds a step may take before the engine core gives up (300 in vllm/envs.py)."""

_EXECUTE_TIMEOUT = 300.0


class PlaceError(ValueError):
    """A group that cannot be; the message says why, as vLLM's does."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one process of a group is told.

    Attributes:
        nnodes: processes of the group, at least 2.
        rank: this one's number; 0 leads.
        master_addr: the leader's address.
        master_port: the port it meets the others at.
        tensor_parallel: workers that share every layer.
        pipeline_parallel: stages, each with its part of the layers.
        join_timeout: seconds to wait for the others at the start.
        execute_timeout: seconds a step may take before the leader's engine core gives up.
        hangs_without_follower: a step that a lost follower would have to do hangs, as where its machine lost its power,
            and does not fail at once, as where gloo sees a connection reset.
        outlives_leader: a follower goes on running, memory and all, when its leader is gone: so does vLLM's.
    """

    nnodes: int
    rank: int
    master_addr: str
    master_port: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    join_timeout: float = 600.0
    execute_timeout: float = _EXECUTE_TIMEOUT
    outlives_leader: bool = True
    hangs_without_follower: bool = True

    def __post_init__(self) -> None:
        """Check it as vLLM does (``vllm/engine/arg_utils.py``).

        Raises:
            PlaceError: there is no such place.
        """
        if self.world_size % self.nnodes:
            raise PlaceError(
                f"--nnodes {self.nnodes} must evenly divide the total world size ({self.world_size}): "
                "adjust --nnodes, --tensor-parallel-size or --pipeline-parallel-size"
            )
        if not 0 <= self.rank < self.nnodes:
            raise PlaceError(f"--node-rank must be between 0 and {self.nnodes - 1}; got {self.rank}")

    @property
    def world_size(self) -> int:
        """Workers of the whole group."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def shape(self) -> tuple[int, int, int]:
        """What all processes of a group must have been told alike."""
        return self.nnodes, self.tensor_parallel, self.pipeline_parallel

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of this process's workers, as vLLM gives them: ``Worker_PP1_TP0``."""
        local = self.world_size // self.nnodes
        return tuple(self._name(rank) for rank in range(self.rank * local, (self.rank + 1) * local))

    def _name(self, rank: int) -> str:
        stage, slice_ = divmod(rank, self.tensor_parallel)
        parts = [f"PP{stage}"] if self.pipeline_parallel > 1 else []
        parts += [f"TP{slice_}"] if self.tensor_parallel > 1 else []
        return "_".join(("Worker", *parts))


@dataclass(frozen=True, kw_only=True)
class RayGroup:
    """What the one process is told that Ray spreads: as in `Place`; the rest is what the cluster has."""

    tensor_parallel: int
    pipeline_parallel: int
    join_timeout: float
    execute_timeout: float


def execute_timeout(environment: Mapping[str, str]) -> float:
    """Return the seconds that a step may take; fractions, which vLLM does not know, make tests quick.

    Raises:
        PlaceError: the variable is not a number.
    """
    word = environment.get(EXECUTE_TIMEOUT, "")
    try:
        return float(word) if word else _EXECUTE_TIMEOUT
    except ValueError:
        raise PlaceError(f"{EXECUTE_TIMEOUT} is not a number: {word}") from None
