"""What `shoal up --on ray` and `shoal down --on ray` do: they start the controller, and end all that it started."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from shoal.config import Config
from shoal.config.rules import serving_findings
from shoal.config.shared import DocumentError, validated
from shoal.node.allotment import require_divisible
from shoal.node.errors import StartError
from shoal.substrate.controller import Controller
from shoal.substrate.ray_api import CONTROLLER, Ray, RayError, document_of

_LOOK = 0.5  # s between two looks
_ANSWER = 180.0  # s that an actor may take to start and answer

Say = Callable[[str], None]


def up(config: Config, address: str | None, wait: float, say: Say) -> bool:
    """Start a cluster on Ray; return whether all nodes and the engines it begins with were ready in time.

    Args:
        config: of the file.
        address: of Ray's head, see `Ray.connect`.
        wait: seconds to wait for them; 0 for not at all.
        say: gets a line about each step.

    Raises:
        RayError: there is no Ray cluster, it does not fit, or another configuration is up there.
    """
    document = document_of(config)
    try:
        require_divisible(validated(document))
    except (DocumentError, StartError) as error:
        raise RayError(f"the file does not go with Ray: {error}") from None
    ray = Ray()
    ray.connect(address, config.cluster.name)
    try:
        _require_secret(document, [node.address for node in ray.nodes()])
        if ray.actor(CONTROLLER) is not None:
            raise RayError(
                f"cluster {config.cluster.name} is up on this Ray cluster already: `shoal apply FILE` changes it, "
                "`shoal down --on ray` ends it"
            )
        head = next((node.id for node in ray.nodes() if node.head), "")
        controller = ray.start_actor(
            Controller, CONTROLLER, (document, secrets.token_hex(8)), node=head, soft=True
        )
        ray.get(controller.status.remote(), _ANSWER)
        say(f"the controller of cluster {config.cluster.name} runs; {len(ray.nodes())} nodes of Ray")
        return _follow(ray, controller, wait, say) if wait else True
    finally:
        ray.disconnect()


def down(cluster: str, address: str | None, wait: float, say: Say) -> bool:
    """End a cluster on Ray: requests finish, engines and nodes stop. Return whether all were gone in time.

    Args:
        cluster: its name.
        address: of Ray's head.
        wait: seconds that it may take.
        say: gets a line about each step.

    Raises:
        RayError: there is no Ray cluster, or nothing of this cluster on it.
    """
    ray = Ray()
    ray.connect(address, cluster)
    try:
        controller = ray.actor(CONTROLLER)
        runners = {n.id: a for n in ray.nodes() if (a := ray.actor(f"node-{n.id}")) is not None}
        if controller is None and not runners:
            raise RayError(f"cluster {cluster} is not up on this Ray cluster")
        if controller is not None:
            ray.kill(controller)  # first: it would start again what stops
        refused = ray.ask({i: r.leave.remote() for i, r in runners.items()})
        for problem in filter(None, refused.values()):
            say(problem)
        gone = _stopped(ray, runners, wait, say)
        for runner in runners.values():
            ray.kill(runner)
        prefix = f"shoal-{cluster}:"
        for name, (id_, nodes) in ray.groups().items():
            if name.startswith(prefix):
                ray.give_back(id_, name.removeprefix(prefix), len(nodes))
        return gone
    finally:
        ray.disconnect()


def _require_secret(document: Mapping[str, Any], addresses: list[str]) -> None:
    """Refuse a cluster without a secret that other machines can reach, as `shoal serve` does."""
    nodes = [{"host": address} for address in dict.fromkeys(addresses)]
    for finding in serving_findings(validated({**document, "nodes": nodes})):
        raise RayError(finding.message)


def _follow(ray: Ray, controller: Any, wait: float, say: Say) -> bool:
    """Tell how nodes and engines come up until all are there; return whether they are."""
    end, told = time.monotonic() + wait, dict[str, str]()
    while time.monotonic() < end:
        time.sleep(_LOOK)
        status = ray.ask({"": controller.status.remote()}).get("")
        if status is None:
            continue
        lines = {
            id_: f"node {n['name']} answers" if n["answers"] else n["problem"]
            for id_, n in status["nodes"].items()
        }
        lines |= {
            f"model {m}": f"model {m}: {n['ready']} of {n['engines']} engines ready"
            for m, n in status["models"].items()
        }
        lines["controller"] = status["problem"]
        for what, line in lines.items():
            if line and told.get(what) != line:
                told[what] = line
                say(line)
        nodes, models = status["nodes"].values(), status["models"].values()
        told_of = nodes and all(n["answers"] or n["problem"] for n in nodes)
        if told_of and models and all(m["ready"] >= m["engines"] for m in models):
            names = [n["name"] for n in nodes if n["answers"]]
            say(
                f"the cluster is up: http://{names[0]}/v1, and every other node's port, answers for all of it"
            )
            return True
    return False


def _stopped(ray: Ray, runners: Mapping[str, Any], wait: float, say: Say) -> bool:
    """Wait until no node process runs any more; return whether that is so."""
    end, left = time.monotonic() + wait, set(runners)
    while left and time.monotonic() < end:
        time.sleep(_LOOK)
        for id_, report in ray.ask({i: runners[i].report.remote() for i in left}).items():
            if not report["runs"]:
                left.discard(id_)
                say(f"node {report['name']} has stopped")
    return not left
