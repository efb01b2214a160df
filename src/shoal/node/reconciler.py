"""What should run on this node, compared with what does: the rules decide, the engines obey."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from shoal.cluster.view import SeatReport, View
from shoal.config import Config
from shoal.engine.spec import EngineSpec
from shoal.node.duty import Duties, Duty
from shoal.node.engines import Engines
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.fleet_parts import FleetParts
from shoal.node.held import startable
from shoal.node.lifelines import Lifelines
from shoal.node.parts import Parts
from shoal.node.reconcile import Local, Timers, Wanted, plan, replacing
from shoal.node.watch import Orphans

# More decisions than this in one go would be rules that contradict each other.
_MAX_DECISIONS = 1000


class Reconciler:
    """Holds what is wanted of this node's engines, and brings them there.

    Args:
        timers: of the rules.
        duty: what this node is to run, its own and what it stands in for.
        parts: what it is to run of engines that span nodes.
        engines: what it runs.
        fleet: models that are copied, applied or taken back.
        orphans: engines whose node process is away.
        lifelines: of other nodes' parts.
        events: told of decisions.
        announce: has this node's report told to everybody at once.

    Attributes:
        leaving: this node is about to stop: nothing new starts.
    """

    def __init__(
        self,
        timers: Timers,
        duty: Duty,
        parts: Parts,
        engines: Engines,
        fleet: FleetParts,
        *,
        orphans: Orphans,
        lifelines: Lifelines,
        events: Events,
        announce: Callable[[], None],
    ) -> None:
        self._timers = timers
        self._duty = duty
        self._parts = parts
        self._engines = engines
        self._fleet = fleet
        self._orphans = orphans
        self._lifelines = lifelines
        self._events = events
        self._announce = announce
        self._wanted: Mapping[str, Wanted] = duty.wanted
        self._specs: Mapping[str, EngineSpec] = duty.specs
        self._seats: tuple[SeatReport, ...] = ()  # what others were told of this node's parts
        self.leaving = False
        parts.want(duty.parts)

    def resume(self) -> None:
        """Go on with what the process before this one left running."""
        self.obey(self._duty.resume(adopted=bool(self._engines.actual())))
        self._parts.resume(self._engines.parts(), time.monotonic())

    def look(self, view: View) -> None:
        """Compare once, and do what there is to do."""
        # A standby that is drained does not begin to stand in for anybody.
        if not self.leaving and (self._duty.covers or not self._fleet.drained):
            answers = (self._orphans.answers, time.monotonic(), self._lifelines.answers)
            self.obey(self._duty.review(view, *answers))
        self._fleet.rollout.look()
        self._take_parts(view)
        self._decide(view)

    def obey(self, reason: str | None) -> None:
        """Take over or give back, if there is a reason to."""
        if reason is None:
            return
        self._events.add(reason, "warning" if self._duty.covers else "info")
        self.renew()

    def prepare_anew(self, config: Config, prepared: Duties | None = None) -> None:
        """Work out again what this node is to run, unless that is `prepared` already."""
        try:
            self._duty.configure(config, prepared)
        except StartError as error:
            self._events.add(f"this node goes on with the engines it has: {error}", "error")
        self.renew()

    def renew(self) -> None:
        """Run what the node's duty is now."""
        self._parts.want(self._duty.parts)
        self._want()
        self._fleet.replacing = replacing(self._wanted, self._engines.actual())
        self._announce()

    def _want(self) -> None:
        """Note what should run here now, on this node alone or as a part of an engine across nodes."""
        self._wanted = {**self._duty.wanted, **self._parts.wanted()}
        self._specs = {**self._duty.specs, **self._parts.specs()}
        self._engines.want(self._specs)

    def _take_parts(self, view: View) -> None:
        """Go on with engines that span nodes."""
        now, lifelines = time.monotonic(), self._lifelines.answers
        self._parts.step(view, self._engines.actual(), lifelines, now, leaving=self.leaving)
        self._want()
        # With lifelines: who knows that a part runs, and not how to reach it, takes it for dead together with us.
        seats = self._parts.seats(self._engines.parts())
        if seats != self._seats:
            self._seats = seats
            self._announce()

    def _decide(self, view: View) -> None:
        for _ in range(_MAX_DECISIONS):
            engines = self._engines.actual()
            running = {e.id for e in engines.values() if e.running}
            wanted = startable(self._wanted, self._specs, self._fleet.files.held, running)
            now = time.monotonic()
            self._fleet.replacing = replacing(wanted, engines)
            local = Local(
                now=now,
                engines=engines,
                leaving=self.leaving,
                waits=self._fleet.waits_to_replace(view, now),
            )
            action = plan(wanted, local, self._timers)
            if action is None:
                return
            self._engines.apply(action)
            self._announce()
        raise RuntimeError(f"more than {_MAX_DECISIONS} decisions in one go, the last: {action}")
