"""The controller of a cluster on Ray: a detached actor that brings what there is to what there should be.

It decides nothing that requests wait for. Nodes route, watch their engines and restart them without it; when it is
lost, Ray starts it again, and it takes up what it finds: nodes, placement groups, and what the nodes say they run.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from shoal import __version__
from shoal.config.shared import validated
from shoal.substrate import plan
from shoal.substrate.engines import REPORT_TIMEOUT, Engines, Said, newest
from shoal.substrate.plan import RayNode
from shoal.substrate.ray_api import Ray
from shoal.substrate.runner import Runner

log = logging.getLogger(__name__)

_EVERY: Final = 1.0  # s between two rounds
_AGAIN: Final = 10.0  # s until a node that did not start, or does not go, is told again
_PRESENT = ("alive", "suspect")


class NodeNow(msgspec.Struct, kw_only=True):
    """What is known of the Shoal node on a node of Ray.

    Attributes:
        name: its ``host:port``, "" while it has none.
        runs: there is a process.
        said: what it said in this round, None if it did not answer.
        heard: the actor there has answered in this round.
        unfit: why there can be no Shoal node, "" if there can.
        problem: why there is none at the moment, or why it does not do what it was told; "" for neither.
    """

    name: str = ""
    runs: bool = False
    said: Said | None = None
    heard: bool = False
    unfit: str = ""
    problem: str = ""


class Controller:
    """The actor. Its work is done in a thread, so that it answers meanwhile.

    Args:
        document: the configuration, see `ray_api.document_of`.
        up: tells this `shoal up` from any other.
        begin: start at once; else somebody calls `round`.
    """

    def __init__(self, document: Mapping[str, Any], up: str, *, begin: bool = True) -> None:
        self._document, self._up = dict(document), up
        self._config = validated(document)
        self._ray = Ray()
        self._versions = {
            "ray": self._ray.version,
            "python": platform.python_version(),
            "shoal": __version__,
        }
        self._engines = Engines(self._ray, f"shoal-{self._config.cluster.name}:")
        self._runners: dict[str, Any] = {}
        self._fit: set[str] = set()
        self._nodes: dict[str, NodeNow] = {}
        self._told: dict[str, float] = {}
        self._idle: dict[str, float] = {}
        self._leaving: set[str] = set()
        self._released: set[str] = set()
        self._lost: set[str] = set()
        self._problem = ""
        if begin:
            threading.Thread(target=self._run, name="reconcile", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """Return how the nodes and models are, for `shoal up`."""
        nodes = {
            id_: {
                "name": n.name,
                "runs": n.runs,
                "answers": n.said is not None,
                "problem": n.unfit or n.problem,
            }
            for id_, n in list(self._nodes.items())
        }
        return {
            "up": self._up,
            "nodes": nodes,
            "models": dict(self._engines.models),
            "problem": self._problem,
        }

    # -- the loop

    def _run(self) -> None:
        while True:
            try:
                self.round(time.monotonic())
                self._problem = ""
            except Exception as error:
                # Whatever it was, the nodes go on; the next round begins with what there is then.
                log.exception("a round failed")
                self._problem = f"{type(error).__name__}: {error}"
            time.sleep(_EVERY)

    def round(self, now: float) -> None:
        """Look at everything once, and do what is missing.

        Args:
            now: seconds on a steady clock.
        """
        nodes = self._ray.nodes()
        self._look(nodes, self._engines.placed())
        self._serve(nodes, now)
        said = {id_: node.said for id_, node in self._nodes.items() if node.said is not None}
        if not said:
            return
        self._part_with(said, now)
        problems = self._engines.step(nodes, said, self._runners, now)
        for id_, problem in problems.items():
            self._nodes[id_].problem = problem
        self._release(nodes, said, now)

    # -- nodes

    def _look(self, nodes: list[RayNode], used: set[str]) -> None:
        """See to it that each node of Ray has its actor, and ask all of them."""
        live = {node.id for node in nodes}
        self._lost |= {mine.name for id_, mine in self._nodes.items() if id_ not in live and mine.name}
        for known in (self._runners, self._nodes, self._idle):
            for gone in known.keys() - live:
                del known[gone]
        self._released = (self._released & live) - used
        self._leaving &= live
        self._fit &= live
        for node in nodes:
            if node.id not in self._runners and node.id not in self._released:
                arguments = (self._document, self._up, node.id, self._ray.version)
                self._runners[node.id] = self._ray.start_actor(
                    Runner, f"node-{node.id}", arguments, node=node.id
                )
                self._nodes[node.id] = NodeNow()
        unknown = {i: r.versions.remote() for i, r in self._runners.items() if i not in self._fit}
        for id_, versions in self._ray.ask(unknown, REPORT_TIMEOUT).items():
            problem = plan.versions_problem(self._versions, versions)
            self._nodes[id_].unfit = problem or ""
            if problem is None:
                self._fit.add(id_)
        asked = {i: r.report.remote() for i, r in self._runners.items() if i in self._fit}
        answers = self._ray.ask(asked, REPORT_TIMEOUT)
        for id_, mine in self._nodes.items():
            answer = answers.get(id_)
            mine.heard = answer is not None
            mine.said = msgspec.convert(answer["said"], Said) if answer and answer["said"] else None
            if answer is not None:
                mine.name, mine.runs = answer["name"], answer["runs"]
            if mine.said is not None:
                mine.problem = ""

    def _serve(self, nodes: list[RayNode], now: float) -> None:
        """Start Shoal nodes where none runs: the first one by itself, all others join one that answers."""
        there = next((n.said.node for n in self._nodes.values() if n.said is not None), "")
        if not there and any(n.runs for n in self._nodes.values()):
            return
        # An actor that does not answer may have the node that the cluster goes on on, or a name that is thought free.
        complete = all(mine.heard or mine.unfit for mine in self._nodes.values())
        ports = self._config.engines.ports
        calls = {}
        for node in nodes:
            mine = self._nodes.get(node.id)
            if mine is None or not mine.heard or mine.runs or node.id in self._leaving:
                continue
            if not (complete or (there and mine.name)) or not self._due(node.id, now):
                continue
            taken = {n.name for n in self._nodes.values()}
            port = plan.port_of(node.address, self._config.nodes[0].port, taken, [ports])
            mine.name = mine.name or f"{node.address}:{port}"
            calls[node.id] = self._runners[node.id].serve.remote(mine.name, there)
            if not there:
                break
        for id_, problem in self._ray.ask(calls).items():
            self._nodes[id_].problem, self._nodes[id_].runs = problem, not problem

    def _part_with(self, said: Mapping[str, Said], now: float) -> None:
        """Have nodes leave that Ray has lost while they go on running, and the others forget those that do not."""
        # One that has not been heard yet must not be taken for a stranger; of those that were, it is certain.
        certain = all(mine.name or mine.unfit for mine in self._nodes.values())
        here = {node.name for node in self._nodes.values()}
        id_, one = next(iter(said.items()))
        self._lost = (self._lost & one.members.keys()) - here
        for name, state in one.members.items():
            if name in here or not (certain or name in self._lost) or state == "left":
                continue
            if not self._due(name, now):
                continue
            runner = self._runners[id_]
            call = runner.leave.remote(name) if state in _PRESENT else runner.forget.remote(name)
            if not self._ray.ask({"": call}).get("", "no answer"):
                what = "leaves" if state in _PRESENT else "is forgotten"
                self._engines.news.append(f"node {name} {what}: Ray has lost its node")

    def _release(self, nodes: list[RayNode], said: Mapping[str, Said], now: float) -> None:
        """Take Shoal off nodes without engines, where the configuration says so: Ray counts its actor as work."""
        after, used = newest(said.values()).release_after, self._engines.placed()
        for node in nodes:
            if node.head or node.id in used or node.id not in said or not after:
                self._idle.pop(node.id, None)
            elif now - self._idle.setdefault(node.id, now) >= after and self._due(f"release {node.id}", now):
                refused = self._ray.ask({"": self._runners[node.id].leave.remote()}).get("", "no answer")
                if not refused:
                    self._leaving.add(node.id)
        for id_ in [i for i in self._leaving if self._nodes[i].heard and not self._nodes[i].runs]:
            self._ray.kill(self._runners.pop(id_))
            del self._nodes[id_]
            self._fit.discard(id_)
            self._leaving.discard(id_)
            self._released.add(id_)

    # -- helpers

    def _due(self, what: str, now: float) -> bool:
        """Return whether something may be tried again now, and note that it is."""
        if now - self._told.get(what, float("-inf")) < _AGAIN:
            return False
        self._told[what] = now
        return True
