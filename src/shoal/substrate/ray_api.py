"""What Shoal uses of Ray, in one place and typed. Ray is imported by whoever makes a `Ray`, and only then."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from shoal.cluster.addresses import split_name
from shoal.config.schema import Config
from shoal.substrate.plan import RayNode

CONTROLLER: Final = "controller"
"""Name of the controller's actor in its namespace."""

INSTALL: Final = "pip install 'shoal[ray]'"

_HEAD = "node:__internal_head__"
_NODE_LABEL = "ray.io/node-id"
_CALL = 10.0  # s that an actor of a node may take to answer


class RayError(Exception):
    """Ray is not there, or not as it must be; the text is for people."""


def namespace(cluster: str) -> str:
    """Return the namespace in Ray of a cluster's actors and placement groups."""
    return f"shoal-{cluster}"


class Ray:
    """A connection to a Ray cluster.

    Raises:
        RayError: Ray is not installed.
    """

    def __init__(self) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError:
            raise RayError(f"Ray is not installed here: {INSTALL}") from None
        self._groups: Any = importlib.import_module("ray.util.placement_group")
        self._strategies: Any = importlib.import_module("ray.util.scheduling_strategies")

    @property
    def version(self) -> str:
        """Ray's version here."""
        return str(self._ray.__version__)

    def connect(self, address: str | None, cluster: str) -> None:
        """Connect to a Ray cluster that runs; for programs that are no part of it.

        Args:
            address: ``HOST:PORT`` of its head; None for RAY_ADDRESS, or the one of this machine.
            cluster: name of the Shoal cluster.

        Raises:
            RayError: there is none, or one of another version.
        """
        where = address or "auto"
        if address is not None and not _answers(address):
            raise RayError(_refusal(address, None))
        try:
            self._ray.init(
                address=where, namespace=namespace(cluster), log_to_driver=False, logging_level="CRITICAL"
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise RayError(_refusal(address, error)) from None

    def disconnect(self) -> None:
        """Let go of the Ray cluster."""
        self._ray.shutdown()

    # -- nodes

    def nodes(self) -> list[RayNode]:
        """Return the live nodes, as Ray's GCS knows them, in a fixed order, the head first."""
        found = [
            RayNode(
                id=str(node["NodeID"]),
                address=str(node["NodeManagerAddress"]),
                gpus=float(node["Resources"].get("GPU", 0)),
                head=_HEAD in node["Resources"],
            )
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        return sorted(found, key=lambda node: (not node.head, node.address, node.id))

    # -- actors

    def actor(self, name: str) -> Any | None:
        """Return the actor of this name, None if there is none."""
        try:
            return self._ray.get_actor(name)
        except ValueError:
            return None

    def start_actor(
        self,
        kind: Callable[..., Any],
        name: str,
        arguments: tuple[Any, ...],
        *,
        node: str = "",
        soft: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return a detached actor that Ray starts again whenever it is lost; the one of this name, if there is one.

        Args:
            kind: its class.
            name: its name.
            arguments: of its constructor.
            node: Ray's id of the node it is pinned to, "" for any.
            soft: another node will do where that one is gone.
            options: more for Ray.
        """
        more = dict(options or {})
        if node:
            more["scheduling_strategy"] = self._strategies.NodeAffinitySchedulingStrategy(node, soft=soft)
        return (
            self._ray.remote(kind)
            .options(
                name=name,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=0,
                **{"num_cpus": 0, **more},
            )
            .remote(*arguments)
        )

    def kill(self, actor: Any) -> None:
        """End an actor for good."""
        self._ray.kill(actor, no_restart=True)

    def ask(self, calls: Mapping[str, Any], timeout: float = _CALL) -> dict[str, Any]:
        """Return what calls of actors gave, by key; those are left out that failed or took too long.

        Args:
            calls: what ``actor.method.remote(...)`` returned.
            timeout: seconds for all of them.
        """
        if not calls:
            return {}
        keys = {reference: key for key, reference in calls.items()}
        done, _ = self._ray.wait(list(keys), num_returns=len(keys), timeout=timeout)
        answers = {}
        for reference in done:
            try:
                answers[keys[reference]] = self._ray.get(reference)
            except self._ray.exceptions.RayError:
                continue
        return answers

    def get(self, reference: Any, timeout: float) -> Any:
        """Return what one call of an actor gave.

        Raises:
            RayError: it failed, or took too long.
        """
        try:
            return self._ray.get(reference, timeout=timeout)
        except self._ray.exceptions.RayError as error:
            raise RayError(str(error).strip().splitlines()[-1] or type(error).__name__) from None

    # -- placement groups

    def groups(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Return by name the id of each placement group there is, and the node of each bundle ("" for no room yet)."""
        found = {}
        for id_, entry in self._groups.placement_group_table().items():
            if entry["state"] == "REMOVED" or not entry["name"]:
                continue
            # One that has lost a node keeps its other bundles while it looks for another one (RESCHEDULING).
            held = entry["state"] in ("CREATED", "RESCHEDULING")
            nodes = sorted(entry["bundles_to_node_id"].items())
            found[str(entry["name"])] = id_, tuple(str(node) if held else "" for _, node in nodes)
        return found

    def make_group(self, name: str, cpus: float, gpus: int, *, span: int = 1, node: str = "") -> None:
        """Ask for the resources of one engine.

        While no node has them, it is pending, and Ray's autoscaler sees what is missing.

        Args:
            name: of the placement group.
            cpus: on each node of the engine.
            gpus: likewise.
            span: nodes of the engine.
            node: the one it is to be on, "" for whichever has room.
        """
        bundle = {"CPU": cpus, "GPU": gpus}
        more: dict[str, Any] = {"bundle_label_selector": [{_NODE_LABEL: node}]} if node else {}
        wanted = {what: amount for what, amount in bundle.items() if amount} or {"CPU": 0.001}
        strategy = "STRICT_SPREAD" if span > 1 else "PACK"
        self._groups.placement_group([wanted] * span, strategy, name=name, lifetime="detached", **more)

    def remove_group(self, id_: str) -> None:
        """Give the resources of a placement group back."""
        group_id = self._ray.PlacementGroupID.from_hex(id_)
        self._groups.remove_placement_group(self._groups.PlacementGroup(group_id))

    def holder(self, kind: Callable[..., Any], group: str, replica: str, rank: int, gpus: int) -> Any:
        """Return the actor that has the GPUs of a bundle of a placement group, and so knows which they are."""
        strategy = self._strategies.PlacementGroupSchedulingStrategy(
            self._groups.PlacementGroup(self._ray.PlacementGroupID.from_hex(group)),
            placement_group_bundle_index=rank,
        )
        options = {"num_gpus": gpus, "scheduling_strategy": strategy}
        return self.start_actor(kind, _holder_name(replica, rank), (), options=options)

    def give_back(self, group: str, replica: str, span: int) -> None:
        """Give all resources of a replica back: those its holders have, and the placement group.

        Args:
            group: its id.
            replica: the replica.
            span: its bundles.
        """
        for rank in range(span):
            if (holder := self.actor(_holder_name(replica, rank))) is not None:
                self.kill(holder)
        self.remove_group(group)


def _holder_name(replica: str, rank: int) -> str:
    return f"gpus-{replica}:{rank}"


class Holder:
    """Has the GPUs of one engine in Ray's books."""

    def gpus(self) -> list[int]:
        """Return their indices on this machine."""
        ray: Any = importlib.import_module("ray")
        return [int(index) for index in ray.get_gpu_ids()]


def document_of(config: Config) -> dict[str, Any]:
    """Return all of a configuration as plain data, with its secret; where it leaves paths to the machine, so does this.

    Nodes on Ray have no names before they are there: those of the file are left out but for the first.
    """
    dumped: dict[str, Any] = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    if "state_dir" not in config.model_fields_set:
        del dumped["state_dir"]
    if not config.several:
        dumped.pop("models", None)
    dumped["nodes"] = [{"host": "127.0.0.1", "port": config.nodes[0].port}]
    dumped["cluster"]["substrate"] = "ray"
    return dumped


def _answers(address: str) -> bool:
    """Return whether something listens there. Ray itself would go on asking for two minutes."""
    place = split_name(address)
    if place is None:
        return False
    try:
        socket.create_connection(place, timeout=5.0).close()
    except OSError:
        return False
    return True


def _refusal(address: str | None, error: Exception | None) -> str:
    text = str(error or "")
    if "ersion mismatch" in text:
        facts = [line.strip() for line in text.splitlines() if "Ray:" in line or "Python:" in line]
        versions = "; ".join(facts) or text.strip().splitlines()[0]
        return f"the Ray cluster has other versions than this installation: {versions}. Install the same ones here."
    where = f"at {address}" if address else "on this machine, nor is RAY_ADDRESS set"
    return (
        f"there is no Ray cluster {where}. Start one (`ray start --head`, `ray up`, KubeRay) and, on a machine that is "
        "one of its nodes, name its head with --address HOST:PORT."
    )
