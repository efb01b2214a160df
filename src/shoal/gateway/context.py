"""What all connections of one worker share: settings, the routing table in force, pools, counters, the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate
from functools import partial
from operator import lt
from typing import TYPE_CHECKING

import msgspec

from shoal.gateway import outcomes
from shoal.gateway.access import Access
from shoal.gateway.admission import Admission
from shoal.gateway.affinity import Affinity
from shoal.gateway.coalescing import CoalescedReads
from shoal.gateway.counters import NO_MODEL, Cell, InFlight, SharedMetrics, model_block
from shoal.gateway.faults import Faults
from shoal.gateway.heads import KnownRequests
from shoal.gateway.inspect import RoutingFields, decode_fields
from shoal.gateway.key_cells import KeyCells
from shoal.gateway.messages import Report, WorkerNotice, WorkerSettings
from shoal.gateway.outbox import Outbox
from shoal.gateway.pool import Counts, Pool
from shoal.gateway.prompts import prompt_fields
from shoal.gateway.trace import Traces
from shoal.gateway.via import DETOUR, ViaPool
from shoal.routing import registry
from shoal.routing.least_connections import LeastConnections
from shoal.routing.policy import Policy
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable

if TYPE_CHECKING:
    from shoal.gateway.client import ClientConnection
    from shoal.gateway.request import Request


class Route:
    """The engines of one model, ready to be picked from.

    Args:
        model_id: what clients call the model.
        route: the entry of the routing table.
        policy: picks; it outlives routing tables.
        pools: connections to the engines of `route`, in the same order.
        admission: where requests wait for these engines; it outlives routing tables.
        batch_share: share of an engine's capacity that batch requests may use.

    Attributes:
        capped: there are engines, and each one has a limit for the requests it gets.
    """

    __slots__ = (
        "_ample",
        "_columns",
        "_least_ample",
        "admission",
        "batch_share",
        "block",
        "capped",
        "max_model_len",
        "model",
        "model_id",
        "pending",
        "policy",
        "pools",
        "targets",
    )

    def __init__(
        self,
        model_id: str,
        route: ModelRoute,
        policy: Policy,
        pools: tuple[Pool, ...],
        *,
        admission: Admission,
        batch_share: float,
    ) -> None:
        self.admission = admission
        self.batch_share = batch_share
        self.block = model_block(route.slot)
        self.model = route.model
        self.model_id = model_id
        self.max_model_len = route.max_model_len
        self.pending = route.pending
        self.policy = policy
        self.pools = pools
        self.targets = route.engines
        self._columns = tuple(pool.counts.column for pool in pools)
        # Where one engine takes any number, nobody ever has to wait.
        self.capped = bool(pools) and all(target.capacity for target in route.engines)
        # Below these an engine has room beyond doubt: its last places are given away with care, see `Admission`.
        self._ample = [t.capacity - max(1, t.capacity // 16) for t in route.engines] if self.capped else None
        self._least_ample = min(self._ample) if self._ample else 0

    def admit(self, gateway: Gateway, request: Request) -> Pool | None:
        """Return the engine for a new, ordinary request; None where that needs a closer look (`Admission.enter`)."""
        ample, columns = self._ample, self._columns
        if gateway.faults.avoided:
            return self.choose((), gateway, request) if ample is None else None
        if ample is None:
            return self._pick(self.pools, self.targets, columns, gateway, request)
        if self.admission.waiting:
            return None
        if len(columns) == 1:
            return self.pools[0] if sum(columns[0]) < ample[0] else None
        loads = list(map(sum, columns))
        if max(loads) >= self._least_ample and not all(map(lt, loads, ample)):
            return None
        return self._pick(self.pools, self.targets, columns, gateway, request, loads=loads)

    def usable(self, gateway: Gateway, *, patient: bool) -> Sequence[Pool]:
        """Return the engines to pick from, at their caps or not.

        Args:
            gateway: the worker's shared state.
            patient: rather none than those that are ejected for their faults, and one that has failed lately only for
                one request at a time: the places that a dying engine's requests leave are not for those that wait.
        """
        faults = gateway.faults
        if not faults.avoided:
            return self.pools
        best = faults.best(self.targets, gateway.now())
        pools = [pool for pool in self.pools if pool.target.id in best]
        if patient:
            return [pool for pool in pools if not (faults.doubts(pool.target) and pool.counts.own())]
        return pools or self.pools

    def choose_with_room(
        self, gateway: Gateway, pools: Iterable[Pool], request: Request, *, batch: bool
    ) -> Pool | None:
        """Return one of some engines that is below its cap, None if there is none.

        Args:
            gateway: the worker's shared state.
            pools: the engines.
            request: the request.
            batch: for a batch request, which leaves others their share.
        """
        room = tuple([pool for pool in pools if pool.has_room(self.batch_share if batch else 1.0)])
        if not room:
            return None
        targets, columns = [pool.target for pool in room], [pool.counts.column for pool in room]
        picked = self._pick(room, targets, columns, gateway, request)
        if gateway.faults.avoided:
            gateway.faults.picked(picked.target.id, gateway.now())
        return picked

    def held(self) -> int:
        """Return the requests that this worker has open on the engines."""
        return sum([pool.counts.own() for pool in self.pools])

    def share(self, gateways: int) -> int:
        """Return how many requests each of so many gateways may have open on the engines, if all want more."""
        return -(-sum([target.capacity for target in self.targets]) // gateways)

    def has_others(self, tried: Sequence[Pool]) -> bool:
        """Whether there is an engine that is not among `tried`. One that was started anew since is another one."""
        return any(pool not in tried for pool in self.pools)

    def choose(self, tried: Sequence[Pool], gateway: Gateway, request: Request) -> Pool:
        """Return the engine for a request that has failed on `tried`; there must be one left.

        Engines that are ejected for their faults are picked only when there is nobody else, see `faults`.
        """
        pools, targets, columns = self.pools, self.targets, self._columns
        faults = gateway.faults
        if not tried and not faults.avoided:
            return self._pick(pools, targets, columns, gateway, request)
        now = gateway.now()
        best = faults.best(targets, now)
        left = [pool for pool in pools if pool not in tried]
        left = [pool for pool in left if pool.target.id in best] or left
        # Who has been admitted once does not wait again, but goes where there is room if it can.
        pools = tuple([pool for pool in left if pool.has_room()] or left)
        columns = tuple(pool.counts.column for pool in pools)
        picked = self._pick(pools, [pool.target for pool in pools], columns, gateway, request)
        faults.picked(picked.target.id, now)
        return picked

    def _pick(
        self,
        pools: tuple[Pool, ...],
        targets: Sequence[EngineTarget],
        columns: Sequence[memoryview],
        gateway: Gateway,
        request: Request,
        *,
        loads: Sequence[int] = (),
    ) -> Pool:
        if len(pools) == 1:
            return pools[0]
        policy = request.policy or self.policy
        try:
            counted = loads or list(map(sum, columns)) if policy.uses_load else ()
            if request.trace is not None:
                request.trace.consider(policy, targets, counted, request, len(self.pools))
            return pools[policy.pick(targets, counted, request)]
        except Exception as error:
            gateway.policy_failed(self.model, policy, error)
            request.work = 0
            return pools[gateway.stand_in.pick(targets, list(map(sum, columns)), request)]


class Gateway:
    """The state of one worker. Every connection holds a reference to it.

    Args:
        settings: from the node process.
        in_flight: the shared counts.
        metrics: the shared metrics.
        report: takes messages for the node process.
        affinity: what workers share of engines' caches; None for a small map of this worker alone.
        key_cells: shared with the other workers; needed where the settings have API keys.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        in_flight: InFlight,
        metrics: SharedMetrics,
        report: Callable[[Report], None],
        *,
        affinity: Affinity | None = None,
        key_cells: KeyCells | None = None,
    ) -> None:
        self.settings = settings
        self.stand_in = LeastConnections(settings.index)
        """Picks where a policy has failed."""
        self.fields_of: Callable[[bytes], RoutingFields] = decode_fields
        """Decodes the routing fields of a JSON body, with the prompt if policies need it."""
        self.heads = KnownRequests(settings)
        self.outbox = Outbox()
        self.reads = CoalescedReads(self.outbox)
        self.traces = Traces(settings, report)
        self.curious = settings.allow_override or self.traces.watching
        """More is to be found out about each request than its routing fields."""
        self.table = RoutingTable(version=0)
        self.routes: dict[str, Route] = {}
        self.only_route: Route | None = None
        self.lost: frozenset[str] = frozenset()
        """Ids of engines from which nothing is to be expected any more."""
        self.faults = Faults(report, self._instance, self._count_ejection)
        self.access: Access | None = None
        """Judges API keys; None where nobody needs one."""
        if settings.keys is not None:
            assert key_cells is not None
            self.access = Access(settings.keys, key_cells, settings.index, report)
        self.connections: set[ClientConnection] = set()
        self._draining = False
        self.closing = False
        """Connections end after their next answer."""
        self.now = asyncio.get_running_loop().time
        self.coarse_now = self.now()  # the clock as of the last tick, for time-outs of seconds
        self.date = b""  # value of the Date header
        self.cells = metrics.row(settings.index)
        self.outcomes = metrics.outcomes(settings.index)
        self.control = Pool(
            EngineTarget(id="control", slot=0, host="", port=0),
            Counts.private(),
            keepalive=settings.keepalive,
            connect_timeout=settings.connect_timeout,
            unix_socket=settings.control_socket,
        )
        self.metrics = metrics
        self.waiting_row = metrics.waiting(settings.index)
        """Requests of this worker that wait, by model slot."""
        self._in_flight = in_flight
        self._admissions: dict[str, Admission] = {}
        self._report = report
        self._affinity = affinity or Affinity.private()
        self._index = settings.index if affinity else 0  # row in it
        self._shared = registry.Shared(
            self._affinity.table,
            self._affinity,
            self._affinity.teller(self._index) if settings.share_prefixes else lambda *_: None,
            settings.session_header.lower().encode(),
        )
        self._failed: set[tuple[str, str]] = set()
        self._pools: dict[str, Pool] = {}
        self._policies: dict[tuple[str, str], Policy] = {}
        self._detours: set[str] = set()  # engines that the relay does not lead to for the moment
        in_flight.clear(settings.index)
        self._affinity.clear(self._index)
        metrics.reset_gauges(settings.index)
        self.tick()

    def apply(self, table: RoutingTable) -> None:
        """Route by `table` from now on. Requests under way stay where they are.

        Raises:
            ValueError: the table names a policy that does not exist; the last table stays in force.
        """
        policies = {
            (route.model, route.policy): self.policy(route.model, route.policy)
            for route in table.routes.values()
        }
        pools = {target.id: self._pool(target) for route in table.routes.values() for target in route.engines}
        for name, pool in self._pools.items():
            if pools.get(name) is not pool:
                pool.retire()
        self._policies, self._pools, self.table = policies, pools, table
        admissions = {route.model: self._admission(route) for route in table.routes.values()}
        for pool in pools.values():
            pool.admission = None
        for route in table.routes.values():
            for target in route.engines:
                pools[target.id].admission = admissions[route.model]
        waiting = {model: a for model, a in self._admissions.items() if a.waiting}
        self._admissions = waiting | admissions
        self.routes = {
            model_id: Route(
                model_id,
                route,
                policies[route.model, route.policy],
                tuple(pools[target.id] for target in route.engines),
                admission=admissions[route.model],
                batch_share=self.settings.batch_share,
            )
            for model_id, route in table.routes.items()
        }
        models = {route.model for route in table.routes.values()}
        several = any(len(route.engines) > 1 for route in table.routes.values())
        wanted = several and any(getattr(policy, "uses_prompt", False) for policy in policies.values())
        self.fields_of = prompt_fields if wanted else decode_fields
        self.closing = self._draining or table.draining
        self.only_route = next(iter(self.routes.values())) if len(models) == 1 else None
        lost = frozenset(table.lost)
        news, self.lost = lost - self.lost, lost
        if news:
            self.coarse_now = now = self.now()
            for connection in list(self.connections):
                connection.check_deadlines(now)
        for admission in waiting.values():
            admission.pump()

    def _admission(self, route: ModelRoute) -> Admission:
        admission = self._admissions.get(route.model) or Admission(self, route.model)
        admission.slot = route.slot
        return admission

    def policy(self, model: str, name: str) -> Policy:
        """Return the policy of this name for a model: the one there is, or a new one.

        Raises:
            ValueError: there is no such policy, or it cannot be made.
        """
        policy = self._policies.get((model, name))
        if policy is None:
            seed = self.settings.seed + self.settings.index
            policy = self._policies[model, name] = registry.create(name, seed, self._shared)
        return policy

    def policy_failed(self, model: str, policy: Policy, error: Exception) -> None:
        """Say once that a policy has raised."""
        name = type(policy).__name__
        if (model, name) not in self._failed:
            self._failed.add((model, name))
            text = f"model {model}: the routing policy {name} failed ({type(error).__name__}: {error})"
            self._report(WorkerNotice(f"{text}; least_connections picks in its place", "warning"))

    def routes_to(self, pool: Pool) -> bool:
        """Return whether the table has the pool's engine, at the same address; the way there may be another one."""
        now = self._pools.get(pool.target.id)
        return now is pool or (now is not None and _same(now.target, pool.target, via=""))

    def _pool(self, target: EngineTarget) -> Pool:
        if target.via and target.id in self._detours:
            target = msgspec.structs.replace(target, via="")
        pool = self._pools.get(target.id)
        if pool is not None and _same(pool.target, target):
            pool.target = target
            return pool
        index = self.settings.index
        counts = Counts(
            self._in_flight.row(index),
            self._in_flight.column(target.slot),
            self.metrics.engine_requests(index),
            self.metrics.engine_faults(index),
            target.slot,
        )
        counts.work = self._affinity.work_row(self._index)
        make = partial(ViaPool, cut_off=self._detour) if target.via else Pool
        return make(
            target,
            counts,
            keepalive=self.settings.keepalive,
            connect_timeout=self.settings.connect_timeout,
            metered=self.access is not None,
            credentials=self.settings.authorities.get(target.authority),
        )

    def _detour(self, engine: str) -> None:
        """Go to an engine by tcp for a while: the relay has cut a request off."""
        if engine not in self._detours:
            self._detours.add(engine)
            self.apply(self.table)
            asyncio.get_running_loop().call_later(DETOUR, self._end_detour, engine)

    def _end_detour(self, engine: str) -> None:
        self._detours.discard(engine)
        self.apply(self.table)

    def engine_of(self, block: int) -> str:
        """Return the id of the engine whose cells are a block; "" if none has them any more."""
        return next((pool.target.id for pool in self._pools.values() if pool.block == block), "")

    def _instance(self, engine: str) -> str:
        pool = self._pools.get(engine)
        return "" if pool is None else pool.target.instance

    def _count_ejection(self) -> None:
        self.cells[Cell.EJECTIONS] += 1

    def drain(self, grace: float) -> None:
        """End every connection after its next answer, and idle ones after `grace` seconds."""
        self.closing = self._draining = True
        by = self.now() + grace
        for connection in self.connections:
            connection.drain(by)

    @property
    def tick_interval(self) -> float:
        """Seconds between two calls of `tick` that keep every time-out about right."""
        settings = self.settings
        limits = (settings.header_timeout, settings.idle_timeout, settings.response_timeout or 4.0)
        return min(1.0, min(limits) / 4)

    def tick(self) -> None:
        """Do what is due: time-outs, fault reports, the clock. One timer for all keeps timers off the hot path."""
        self.coarse_now = now = self.now()
        self.date = formatdate(time.time(), usegmt=True).encode()
        self.faults.flush(now)
        if self.access is not None:
            self.access.flush()
        for connection in list(self.connections):
            connection.check_deadlines(now)

    def count_answer(self, status: int, streamed: bool = False) -> None:
        """Count a request answered by the worker itself."""
        self.cells[Cell.REQUESTS + 2 * (status // 100 - 2) + streamed] += 1
        outcomes.count_code(self.outcomes, NO_MODEL, status, streamed)


def _same(one: EngineTarget, other: EngineTarget, **same: str) -> bool:
    """Whether two targets differ at most in what connections to them do not depend on, and in `same`."""
    like = {"weight": 1.0, "capacity": 0, **same}
    return msgspec.structs.replace(one, **like) == msgspec.structs.replace(other, **like)
