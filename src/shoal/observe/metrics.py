"""A node's metrics in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from shoal.cluster.view import EngineReport, EngineState, MemberState, View


class GatewayTotals(Protocol):
    """What the gateway workers of this node counted together; further numbers are read by name, see `_COUNTERS`."""

    @property
    def requests(self) -> Mapping[tuple[str, bool], int]:
        """Answered requests by status class (``2xx``) and whether they were streamed."""
        ...

    @property
    def queued(self) -> int:
        """Requests that waited for room in an engine and got it."""
        ...

    @property
    def queue_microseconds(self) -> int:
        """What these waited, together."""
        ...


_COUNTERS = {
    "retries": "Requests moved to another engine before their first byte.",
    "upstream_faults": "Connections that an engine refused, reset or cut.",
    "ejections": "Times a gateway worker tried an engine last for a while because of its faults.",
    "truncated": "Answers that broke off after their first byte had reached the client.",
    "resumes": "Streams that went on on another engine after theirs had failed.",
    "broken_streams": "Streams that ended with an error event because no engine could go on with them.",
    "client_disconnects": "Clients that went away before their answer was complete.",
    "bad_requests": "Requests refused because they are no proper HTTP.",
    "connections": "Client connections accepted.",
    "bytes_in": "Bytes of request bodies passed on to engines.",
    "bytes_out": "Bytes of answers passed on to clients.",
}
_QUEUE_ENDS = {
    "queue_refusals": "full",
    "queue_timeouts": "timeout",
    "queue_departures": "client_gone",
}
_GAUGES = {
    "open_connections": "Client connections open now.",
    "open_requests": "Requests that engines hold now for this node's gateway.",
}


class KeyUse(Protocol):
    """What an API key has used of a model."""

    @property
    def requests(self) -> int:
        """Requests that have ended."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens of their prompts."""
        ...

    @property
    def completion_tokens(self) -> int:
        """Tokens of their answers."""
        ...

    @property
    def limited(self) -> int:
        """Requests refused by a limit."""
        ...


_KEY_COUNTERS = {
    "requests": "Requests with an API key that have ended.",
    "prompt_tokens": "Prompt tokens of an API key's requests, by the engines' own numbers.",
    "completion_tokens": "Tokens of the answers to an API key's requests, by the engines' own numbers.",
    "limited": "Requests that a limit of their API key refused.",
}


class NodeCollector(Collector):
    """Collects at scrape time; nothing is kept.

    Args:
        view: returns the current view.
        totals: returns the sums over the gateway workers.
        engines: returns (full id, requests dispatched, faults) of each engine this node's gateway has used.
        waiting: returns (model, requests that wait in this node's gateway for room in its engines).
        keys: returns (key, model, what it has used) for each API key.
    """

    def __init__(
        self,
        view: Callable[[], View],
        totals: Callable[[], GatewayTotals],
        engines: Callable[[], Iterable[tuple[str, int, int]]],
        waiting: Callable[[], Iterable[tuple[str, int]]] = tuple,
        keys: Callable[[], Iterable[tuple[str, str, KeyUse]]] = lambda: (),
    ) -> None:
        self._view = view
        self._totals = totals
        self._engines = engines
        self._waiting = waiting
        self._keys = keys

    def collect(self) -> Iterable[Metric]:
        """Yield every metric family (prometheus_client calls this)."""
        yield from self._gateway()
        yield from self._queue()
        yield from self._key_use()
        yield from _cluster(self._view())

    def _gateway(self) -> Iterable[Metric]:
        totals = self._totals()
        requests = CounterMetricFamily(
            "shoal_gateway_requests", "Answered requests by status class.", labels=["code", "streamed"]
        )
        for (code, streamed), count in totals.requests.items():
            requests.add_metric([code, str(streamed).lower()], count)
        yield requests
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"shoal_gateway_{name}", text, value=getattr(totals, name))
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"shoal_gateway_{name}", text, value=getattr(totals, name))
        dispatched = CounterMetricFamily(
            "shoal_gateway_engine_requests", "Requests dispatched to an engine.", labels=["engine"]
        )
        faults = CounterMetricFamily("shoal_gateway_engine_faults", "Faults of an engine.", labels=["engine"])
        for engine, count, failed in self._engines():
            dispatched.add_metric([engine], count)
            faults.add_metric([engine], failed)
        yield dispatched
        yield faults

    def _queue(self) -> Iterable[Metric]:
        totals = self._totals()
        length = GaugeMetricFamily(
            "shoal_gateway_queue_length",
            "Requests, batch ones left out, that wait now for room in an engine.",
            labels=["model"],
        )
        for model, count in self._waiting():
            length.add_metric([model], count)
        yield length
        yield SummaryMetricFamily(
            "shoal_gateway_queue_wait_seconds",
            "Time that requests waited for room in an engine, those that did.",
            count_value=totals.queued,
            sum_value=totals.queue_microseconds / 1e6,
        )
        unserved = CounterMetricFamily(
            "shoal_gateway_queue_unserved",
            "Requests that found no room in an engine: queue full (429), waited too long (503), client gone.",
            labels=["reason"],
        )
        for name, reason in _QUEUE_ENDS.items():
            unserved.add_metric([reason], getattr(totals, name))
        yield unserved

    def _key_use(self) -> Iterable[Metric]:
        rows = list(self._keys())
        for name, text in _KEY_COUNTERS.items() if rows else ():
            family = CounterMetricFamily(f"shoal_key_{name}", text, labels=["key", "model"])
            for key, model, used in rows:
                family.add_metric([key, model], getattr(used, name))
            yield family


def _cluster(view: View) -> Iterable[Metric]:
    members = GaugeMetricFamily(
        "shoal_member_state", "1 for the state this node believes a member is in.", labels=["member", "state"]
    )
    for member in view.members:
        for state in MemberState:
            members.add_metric([member.name, state], member.state is state)
    yield members
    yield GaugeMetricFamily("shoal_isolated", "1 while most members vanished at once.", value=view.isolated)
    me = view.member(view.me)
    own = me.report.engines if me and me.report else ()
    states = GaugeMetricFamily(
        "shoal_engine_state",
        "1 for the state one of this node's engines is in.",
        labels=["engine", "model", "state"],
    )
    for engine in own:
        for engine_state in EngineState:
            states.add_metric([engine.id, engine.model, engine_state], engine.state is engine_state)
    yield states
    yield CounterMetricFamily(
        "shoal_engine_restarts", "Restarts of this node's engines.", value=sum(e.restarts for e in own)
    )
    yield _load("shoal_engine_running", "Requests an engine runs.", own, lambda e: e.running)
    yield _load("shoal_engine_waiting", "Requests queued in an engine.", own, lambda e: e.waiting)
    yield _load("shoal_engine_kv_usage", "Share of an engine's KV cache in use.", own, lambda e: e.kv_usage)


def _load(
    name: str, text: str, engines: Iterable[EngineReport], value: Callable[[EngineReport], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["engine", "model"])
    for engine in engines:
        family.add_metric([engine.id, engine.model], value(engine))
    return family


def render(collector: NodeCollector) -> bytes:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)
