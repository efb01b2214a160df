"""A node's metrics in Prometheus' text format, out of a snapshot. Pure, so that it can run in a thread.

Every series gets the label ``node``. What this node's engines say of themselves is passed on with ``node`` and
``engine``; vLLM's own label ``engine``, the data-parallel rank, is called ``dp_rank`` there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from shoal.cluster.view import EngineReport, EngineState, MemberState, SeatState, full_id
from shoal.observe.catalog import family, one
from shoal.observe.exposition import Document
from shoal.observe.snapshot import Histogram, Outcome, Snapshot

_TOTALS = (
    "retries", "stale_retries", "upstream_faults", "ejections", "resumes", "broken_streams", "truncated",
    "client_disconnects", "bad_requests", "connections", "bytes_in", "bytes_out", "open_connections", "open_requests",
)  # fmt: skip
_QUEUE_ENDS = {"queue_refusals": "full", "queue_timeouts": "timeout", "queue_departures": "client_gone"}
_ENGINES = (
    "vllm:",
    "sglang:",
    "llamacpp:",
    "tgi_",
)  # of vLLM and of programs that are engines by their command
_RENAMED = {"engine": "dp_rank", "node": "exported_node"}


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposed(families: Iterable[Metric]) -> str:
    """Return families in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    return generate_latest(registry).decode()


def render(snapshot: Snapshot, more: Iterable[Metric] = ()) -> str:
    """Return the metrics of a node.

    Args:
        snapshot: what they are made of.
        more: families that do not come from the snapshot.
    """
    node = snapshot.view.me
    document = Document()
    document.add(exposed([*families(snapshot), *more]), {"node": node})
    for engine, text in snapshot.engines:
        document.add(text, {"node": node, "engine": engine}, rename=_RENAMED, wanted=_passed_on)
    return document.text()


def _passed_on(name: str) -> bool:
    """Whether a family of an engine is of interest: not the times at which its series were made, a third of them."""
    return name.startswith(_ENGINES) and not name.endswith("_created")


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield every family that comes from a snapshot."""
    yield from _outcomes(snapshot)
    yield from _gateway(snapshot)
    yield from _queue(snapshot)
    yield from _keys(snapshot)
    yield from _node(snapshot)
    yield from _members(snapshot)
    yield from _engines(snapshot)
    yield from _groups(snapshot)
    yield from _batches(snapshot)
    yield from _transport(snapshot)


def _transport(snapshot: Snapshot) -> Iterator[Metric]:
    ways = (([way.peer, way.protocol], way.by_tcp) for way in snapshot.ways)
    yield _filled("shoal_transport_by_tcp", ways)
    if (carried := snapshot.carried) is not None:
        asked = (([carried.protocol, result], count) for result, count in carried.asked.items())
        yield _filled("shoal_transport_requests", asked)
        yield _filled("shoal_transport_served_requests", [([carried.protocol], carried.served)])


def _filled(name: str, rows: Iterable[tuple[list[str], float]]) -> Metric:
    made: Any = family(name)
    for labels, value in rows:
        made.add_metric(labels, value)
    return made  # type: ignore[no-any-return]


def _outcomes(snapshot: Snapshot) -> Iterator[Metric]:
    yield _filled(
        "shoal_gateway_requests",
        (
            ([model, engine, code, str(streamed).lower()], count)
            for model, engine, outcome in snapshot.outcomes
            for (code, streamed), count in outcome.answers.items()
        ),
    )
    histograms: dict[str, Callable[[Outcome], Histogram]] = {
        "shoal_gateway_time_to_first_token_seconds": lambda outcome: outcome.first,
        "shoal_gateway_inter_token_latency_seconds": lambda outcome: outcome.between,
        "shoal_gateway_e2e_request_latency_seconds": lambda outcome: outcome.whole,
    }
    for name, of in histograms.items():
        made: Any = family(name)
        for model, engine, outcome in snapshot.outcomes:
            if engine:
                histogram = of(outcome)
                bounds = (*(str(bound) for bound in histogram.bounds), "+Inf")
                buckets = zip(bounds, accumulate(histogram.counts), strict=True)
                made.add_metric([model, engine], list(buckets), histogram.total)
        yield made


def _gateway(snapshot: Snapshot) -> Iterator[Metric]:
    for name in _TOTALS:
        yield one(f"shoal_gateway_{name}", getattr(snapshot.totals, name))
    dispatched = snapshot.dispatched
    yield _filled("shoal_gateway_engine_requests", (([engine], count) for engine, count, _ in dispatched))
    yield _filled("shoal_gateway_engine_faults", (([engine], count) for engine, _, count in dispatched))
    yield one("shoal_gateway_workers", snapshot.workers)
    yield one("shoal_gateway_worker_restarts", snapshot.worker_restarts)


def _queue(snapshot: Snapshot) -> Iterator[Metric]:
    totals: Any = snapshot.totals
    rows = (([model], count) for model, count in snapshot.waiting.items())
    yield _filled("shoal_gateway_queue_length", rows)
    waits: Any = family("shoal_gateway_queue_wait_seconds")
    waits.add_metric([], totals.queued, totals.queue_microseconds / 1e6)
    yield waits
    ends = (([reason], getattr(totals, name)) for name, reason in _QUEUE_ENDS.items())
    yield _filled("shoal_gateway_queue_unserved", ends)


def _keys(snapshot: Snapshot) -> Iterator[Metric]:
    if not snapshot.keys:
        return
    for name in ("requests", "prompt_tokens", "completion_tokens", "limited"):
        rows = (([key, model], getattr(used, name)) for key, model, used in snapshot.keys)
        yield _filled(f"shoal_key_{name}", rows)


def _node(snapshot: Snapshot) -> Iterator[Metric]:
    me = snapshot.view.member(snapshot.view.me)
    report = me.report if me else None
    versions = snapshot.versions
    labels = [versions.get(what, "") for what in ("version", "vllm", "torch", "python")]
    yield _filled("shoal_build_info", [(labels, 1)])
    if report is not None:
        yield _filled("shoal_config_info", [([report.config_hash, report.role], 1)])
        yield one("shoal_node_draining", report.draining)
        yield _filled("shoal_standby_covers", [([report.covers], 1)] if report.covers else [])
    yield one("shoal_standby_takeovers", snapshot.takeovers)
    results = (([result], count) for result, count in snapshot.datagrams.items())
    yield _filled("shoal_heartbeat_datagrams", results)
    yield _filled("shoal_events", (([level], count) for level, count in snapshot.events.items()))


def _members(snapshot: Snapshot) -> Iterator[Metric]:
    members = snapshot.view.members
    yield _filled(
        "shoal_member_state",
        (([m.name, state], m.state is state) for m in members for state in MemberState),
    )
    ages = (([m.name], m.age) for m in members if m.age is not None)
    yield _filled("shoal_member_heartbeat_age_seconds", ages)
    yield one("shoal_isolated", snapshot.view.isolated)
    ready = (([model], count) for model, count in snapshot.ready.items())
    yield _filled("shoal_model_engines_ready", ready)


def _engines(snapshot: Snapshot) -> Iterator[Metric]:
    me = snapshot.view.member(snapshot.view.me)
    own = me.report.engines if me and me.report else ()
    names = [(full_id(snapshot.view.me, e.id), e) for e in own]
    yield _filled(
        "shoal_engine_state",
        (([name, e.model, state], e.state is state) for name, e in names for state in EngineState),
    )
    values: dict[str, Callable[[EngineReport], float]] = {
        "restarts": lambda e: e.restarts,
        "running": lambda e: e.running,
        "waiting": lambda e: e.waiting,
        "kv_usage_ratio": lambda e: e.kv_usage,
        "capacity": lambda e: e.capacity,
    }
    for what, value in values.items():
        yield _filled(f"shoal_engine_{what}", (([name, e.model], value(e)) for name, e in names))


def _batches(snapshot: Snapshot) -> Iterator[Metric]:
    batches = snapshot.batches
    if batches is None:
        return
    yield _filled("shoal_batches", (([status], count) for status, count in batches.open.items()))
    yield _filled("shoal_batch_lines", (([state], count) for state, count in batches.lines.items()))
    yield one("shoal_batch_oldest_age_seconds", batches.oldest)
    yield one("shoal_batch_window_used_ratio", batches.window_used)
    yield _filled("shoal_batch_executed_lines", (([r], n) for r, n in batches.executed_lines.items()))
    yield _filled("shoal_batch_executed_tokens", (([k], n) for k, n in batches.executed_tokens.items()))


def _groups(snapshot: Snapshot) -> Iterator[Metric]:
    me = snapshot.view.member(snapshot.view.me)
    seats = me.report.seats if me and me.report else ()
    yield _filled(
        "shoal_group_part_state",
        (
            ([seat.group, seat.model, str(seat.rank), state], seat.state is state)
            for seat in seats
            for state in SeatState
        ),
    )
    generations = (([seat.group, seat.model], seat.generation) for seat in seats)
    yield _filled("shoal_group_generation", generations)
