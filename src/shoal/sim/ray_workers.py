"""The followers of a simulated engine as actors of a Ray cluster: ``--distributed-executor-backend ray``.

As with vLLM there is one process that is told anything, on one node of the cluster that ``RAY_ADDRESS`` names; Ray
starts the others, one on each of its nodes, and ends them with it. They do what followers do that were started by hand.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
from collections.abc import Sequence
from typing import Any

from shoal.sim.group import Follower, GroupError
from shoal.sim.place import Place, PlaceError, RayGroup


class Worker:
    """What runs in an actor."""

    def run(self, fields: dict[str, Any]) -> None:
        """Be the follower with this place, until the leader is gone."""
        asyncio.run(_follow(Place(**fields)))


async def _follow(place: Place) -> None:
    follower = Follower(place)
    await follower.join()
    await follower.work()


class RayWorkers:
    """A connection to the Ray cluster of this engine.

    Args:
        group: what the engine was told.

    Attributes:
        place: the leader's, with any free port; None where the cluster has but one node.

    Raises:
        GroupError: Ray is not installed, there is no cluster, or it has a number of nodes that the sizes do not suit.
    """

    def __init__(self, group: RayGroup) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise GroupError("Ray is not installed: pip install 'shoal[ray]'") from error
        try:
            self._ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="ERROR")
        except (ConnectionError, RuntimeError) as error:
            raise GroupError(f"there is no Ray cluster: {error}") from error
        here = self._ray.get_runtime_context().get_node_id()
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        self._others = sorted(node["NodeID"] for node in nodes if node["NodeID"] != here)
        self._actors: Sequence[Any] = ()
        self.place: Place | None = None
        if not self._others:
            return
        try:
            self.place = Place(
                nnodes=len(nodes),
                rank=0,
                master_addr=next(node["NodeManagerAddress"] for node in nodes if node["NodeID"] == here),
                master_port=0,
                tensor_parallel=group.tensor_parallel,
                pipeline_parallel=group.pipeline_parallel,
                join_timeout=group.join_timeout,
                execute_timeout=group.execute_timeout,
                # Ray tells its driver of a lost actor, and nobody outlives the driver.
                hangs_without_follower=False,
                outlives_leader=False,
            )
        except PlaceError as error:
            raise GroupError(str(error).replace("--nnodes", "a Ray cluster with nodes")) from error

    def start(self, place: Place) -> None:
        """Start a worker on each of the other nodes; they join the leader at `place`."""
        affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        actor = self._ray.remote(Worker)
        self._actors = [
            actor.options(num_cpus=0, scheduling_strategy=affinity(node, soft=False)).remote()
            for node in self._others
        ]
        for rank, worker in enumerate(self._actors, start=1):
            worker.run.remote(dataclasses.asdict(dataclasses.replace(place, rank=rank)))
