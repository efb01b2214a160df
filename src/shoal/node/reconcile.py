"""What a node does next. Pure rules: desired and actual state in, one action with its reason out.

`plan` tries the rules in order and the first that has something to do wins. The node process applies the action and
asks again until there is none. Nothing here reads a clock, starts a process or touches the network: tests feed data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from shoal.cluster.view import EngineState


class Timers(msgspec.Struct, frozen=True, kw_only=True):
    """The timers the rules know, seconds.

    Attributes:
        start_timeout: an engine that is not ready after this has failed to start.
        restart_delay: before the first restart; doubles with each failure that follows.
        restart_delay_max: the delay never grows beyond this.
        healthy_after: an engine that was ready this long is forgiven its earlier failures.
        unhealthy_after: a ready engine that did not answer for this long gets no more requests.
        stall_timeout: an engine that has requests and got nothing done for this long hangs.
    """

    start_timeout: float = 900.0
    restart_delay: float = 1.0
    restart_delay_max: float = 60.0
    healthy_after: float = 120.0
    unhealthy_after: float = 15.0
    stall_timeout: float = 10.0


PATIENCE = 6
"""Times `stall_timeout` for which an engine that computes may get nothing done: one step of a model takes no minutes,
and what waits at full speed for something that never comes computes, too (see `engine.activity`)."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that should run.

    Attributes:
        id: its id.
        fingerprint: of how it should be started.
        part: it is a part of an engine across nodes: whether it runs is decided for all of them (`cluster.group`).
        generation: of those, which one should run here; 0 for none now.
        drain: it should finish what it runs and end.
    """

    id: str
    fingerprint: str
    part: bool = False
    generation: int = 0
    drain: bool = False


class Actual(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as it is. Times are seconds on the clock that `Local.now` reads.

    Attributes:
        id: unique on the node.
        state: where it is in its life.
        since: when it got there.
        fingerprint: of what runs; empty when nothing does.
        running: a process exists.
        ready: it answered /health and the canary since it was started.
        answered: when it last answered /health; None if it never did.
        looked: when it last answered or was found not to answer; None if nobody asked yet. Silence counts up to then
            and not up to now, so that a node process that was stopped itself blames nobody.
        requests: requests that are in it or on the way to it, as far as is known.
        progressed: when it was last seen to have got something done since the look before, or to have no request.
        worked: when its processes or GPUs were last seen to compute while it got nothing done.
        ending: its end is under way.
        away: it was stopped to be replaced, and has not been ready since.
        exit: sentence of an exit that no rule has handled yet ("exited with code 1"), else None.
        failures: exits and failed starts since it was last forgiven.
        next_start: not started again before this; None when nothing holds it back.
        generation: that it was started for last, of an engine across nodes; 0 for a whole engine.
        follows: it answers no requests: it is a part that another node's leads.
        broken: why it cannot go on, though it has not ended ("... is stopped"); None if it can.
        over: how it ended, or what it is killed for, while what is left of it is being ended.
    """

    id: str
    state: EngineState
    since: float
    fingerprint: str = ""
    running: bool = False
    ready: bool = False
    answered: float | None = None
    looked: float | None = None
    requests: int = 0
    progressed: float = 0.0
    worked: float = 0.0
    ending: bool = False
    away: bool = False
    exit: str | None = None
    failures: int = 0
    next_start: float | None = None
    generation: int = 0
    follows: bool = False
    broken: str | None = None
    over: str | None = None


class Local(msgspec.Struct, frozen=True, kw_only=True):
    """This node at one moment.

    Attributes:
        now: seconds on a steady clock.
        engines: its engines, by id.
        leaving: a graceful stop is under way, nothing is started any more.
        waits: it is another node's turn to replace engines.
    """

    now: float
    engines: Mapping[str, Actual] = {}
    leaving: bool = False
    waits: bool = False


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with one engine, and the sentence that says why."""

    engine: str
    reason: str


class Start(Action, frozen=True, kw_only=True):
    """Start the engine."""


class Retry(Action, frozen=True, kw_only=True):
    """Clean up what an exit left and start again at `at`."""

    at: float
    failures: int


class Stop(Action, frozen=True, kw_only=True):
    """End the engine: gracefully and for good, or to be started anew by a later rule."""


class Kill(Action, frozen=True, kw_only=True):
    """End the engine's processes at once: it has failed. Its exit is handled like any other.

    `hung`: what it owes is moved away from it first, and what it is at goes into its log.
    """

    hung: bool = False


class LayDown(Action, frozen=True, kw_only=True):
    """Note the end of a part of an engine across nodes, whose next start is decided for all of them."""


class Forget(Action, frozen=True, kw_only=True):
    """Drop an engine that is neither wanted nor running."""


class MarkReady(Action, frozen=True, kw_only=True):
    """It may get requests."""


class MarkUnhealthy(Action, frozen=True, kw_only=True):
    """It gets no more requests until it answers again."""


class Forgive(Action, frozen=True, kw_only=True):
    """Forget its earlier failures."""


def plan(wanted: Mapping[str, Wanted], local: Local, timers: Timers) -> Action | None:
    """Return the next action, None when actual and desired state agree.

    Args:
        wanted: engines that should run on this node, by id.
        local: the node as it is.
        timers: the configured timers.
    """
    return (
        _drop_unwanted(wanted, local)
        or _lay_down(wanted, local)
        or _end_generation(wanted, local)
        or _kill_broken(local)
        or _retry_after_exit(local, timers)
        or _stop_unwanted(wanted, local)
        or _replace_changed(wanted, local)
        or _fail_slow_start(local, timers)
        or _kill_hung(local, timers)
        or _kill_silent(local, timers)
        or _mark_ready(local)
        or _mark_unhealthy(local, timers)
        or _forgive(local, timers)
        or _start(wanted, local)
    )


def restart_delay(engine: str, failures: int, timers: Timers) -> float:
    """Return how long to wait before the start that follows the `failures`-th failure, seconds.

    Doubles from `restart_delay` up to `restart_delay_max`, then up to a fifth is taken off. The share is derived from
    the engine's name and the count, so that engines that fail together do not come back together.
    """
    delay: float = min(timers.restart_delay * 2.0 ** min(failures - 1, 30), timers.restart_delay_max)
    digest = hashlib.blake2s(f"{engine}:{failures}".encode(), digest_size=2).digest()
    return delay * (1 - 0.2 * int.from_bytes(digest) / 0xFFFF)


def _drop_unwanted(wanted: Mapping[str, Wanted], local: Local) -> Action | None:
    for engine in local.engines.values():
        if engine.id not in wanted and not engine.running:
            return Forget(engine=engine.id, reason=f"engine {engine.id} is gone: it is no longer wanted")
    return None


def _lay_down(wanted: Mapping[str, Wanted], local: Local) -> Action | None:
    for engine in local.engines.values():
        want = wanted.get(engine.id)
        over = want is None or want.generation != engine.generation
        if engine.generation and engine.exit is not None and not engine.running and over:
            return LayDown(engine=engine.id, reason=f"engine {engine.id} {engine.exit}")
    return None


def _end_generation(wanted: Mapping[str, Wanted], local: Local) -> Action | None:
    """End a part at once when its generation is over; let it finish what it runs when a member is about to leave."""
    for engine in local.engines.values():
        want = wanted.get(engine.id)
        if not engine.generation or not engine.running:
            continue
        over = want is None or want.generation != engine.generation
        # Of a generation that is over nothing can finish any more.
        if engine.ending and not (over and engine.state is EngineState.DRAINING):
            continue
        if want is None or over:
            return Kill(
                engine=engine.id,
                reason=f"engine {engine.id} is killed: it belongs to generation {engine.generation}, which has ended",
            )
        if want.drain:
            return Stop(engine=engine.id, reason=f"engine {engine.id} finishes and stops on all its nodes")
    return None


def _kill_broken(local: Local) -> Action | None:
    for engine in local.engines.values():
        if engine.broken is not None and engine.running and not engine.ending:
            return Kill(engine=engine.id, reason=f"engine {engine.id} is killed: it {engine.broken}")
    return None


def _retry_after_exit(local: Local, timers: Timers) -> Action | None:
    for engine in local.engines.values():
        if engine.exit is None or engine.running or engine.generation:
            continue
        failures = engine.failures + 1
        delay = restart_delay(engine.id, failures, timers)
        times = f", failure {failures} in a row" if failures > 1 else ""
        return Retry(
            engine=engine.id,
            at=local.now + delay,
            failures=failures,
            reason=f"engine {engine.id} restarts in {delay:.0f} s: it {engine.exit}{times}",
        )
    return None


def _stop_unwanted(wanted: Mapping[str, Wanted], local: Local) -> Action | None:
    for engine in local.engines.values():
        if engine.running and engine.id not in wanted and not engine.ending:
            return Stop(engine=engine.id, reason=f"engine {engine.id} stops: it is no longer wanted")
    return None


def _replace_changed(wanted: Mapping[str, Wanted], local: Local) -> Action | None:
    # One by one: never a second engine away while another is not back yet. Should the changed configuration be one
    # that does not start, the rest goes on serving with the former one. What nobody can use yet may go at once.
    for engine in local.engines.values():
        want = wanted.get(engine.id)
        useless = engine.away and engine.state is EngineState.STARTING and not engine.ready
        if (
            want
            and engine.running
            and useless
            and not engine.ending
            and engine.fingerprint != want.fingerprint
        ):
            return Stop(
                engine=engine.id, reason=f"engine {engine.id} is replaced before it is ready: {_CHANGED}"
            )
    if local.waits or any(e.away or _settling(e) for e in local.engines.values()):
        return None
    for engine in local.engines.values():
        want = wanted.get(engine.id)
        changed = want is not None and not want.part and engine.fingerprint != want.fingerprint
        if changed and engine.running and not engine.ending:
            return Stop(engine=engine.id, reason=f"engine {engine.id} is replaced: {_CHANGED}")
    return None


_CHANGED = "its configuration changed"


def replacing(wanted: Mapping[str, Wanted], engines: Mapping[str, Actual]) -> str:
    """Return ``acts`` while an engine that was replaced is not back, ``waits`` while one is to be replaced, "" else."""
    # Parts of engines across nodes are replaced by generations, on all their nodes at once.
    known = [engine for engine in engines.values() if engine.id in wanted and not wanted[engine.id].part]
    if any(engine.away for engine in known):
        return "acts"
    former = any(e.running and e.fingerprint != wanted[e.id].fingerprint for e in known)
    return "waits" if former else ""


def _settling(engine: Actual) -> bool:
    return engine.state in (EngineState.STARTING, EngineState.STOPPING, EngineState.DRAINING)


def _fail_slow_start(local: Local, timers: Timers) -> Action | None:
    for engine in local.engines.values():
        slow = local.now - engine.since >= timers.start_timeout
        starting = engine.state is EngineState.STARTING and engine.running and not engine.ending
        if starting and slow and not engine.ready and not engine.follows:
            return Kill(
                engine=engine.id,
                reason=f"engine {engine.id} is killed: it was not ready within {timers.start_timeout:g} s "
                "(engines.start_timeout)",
            )
    return None


def stalls_at(progressed: float, worked: float, stall_timeout: float) -> float:
    """Return when an engine hangs if it gets nothing done until then; arguments as in `Actual` and `Timers`."""
    return min(max(progressed, worked) + stall_timeout, progressed + PATIENCE * stall_timeout)


def _kill_hung(local: Local, timers: Timers) -> Action | None:
    for engine in local.engines.values():
        if not _serves(engine) or not engine.requests or engine.looked is None:
            continue
        if engine.looked < stalls_at(engine.progressed, engine.worked, timers.stall_timeout):
            continue
        what = "did not answer" if (engine.answered or 0.0) < engine.looked else "got nothing done"
        had = "1 request" if engine.requests == 1 else f"{engine.requests} requests"
        return Kill(
            engine=engine.id,
            hung=True,
            reason=f"engine {engine.id} is killed: it had {had} and {what} for "
            f"{engine.looked - engine.progressed:.0f} s (recovery.stall_timeout)",
        )
    return None


def _kill_silent(local: Local, timers: Timers) -> Action | None:
    """Without a request, nobody waits for it: it is out of rotation first, and has time to come back."""
    for engine in local.engines.values():
        if not _serves(engine) or engine.state is not EngineState.UNHEALTHY or engine.looked is None:
            continue
        answered = engine.answered or 0.0
        if engine.looked >= stalls_at(max(answered, engine.since), engine.worked, timers.stall_timeout):
            return Kill(
                engine=engine.id,
                hung=True,
                reason=f"engine {engine.id} is killed: it did not answer for {engine.looked - answered:.0f} s",
            )
    return None


def _serves(engine: Actual) -> bool:
    return (
        engine.running
        and engine.ready
        and not engine.ending
        and engine.state in (EngineState.READY, EngineState.UNHEALTHY)
    )


def _mark_ready(local: Local) -> Action | None:
    for engine in local.engines.values():
        if not engine.running or not engine.ready or engine.ending:
            continue
        if engine.state is EngineState.STARTING:
            took = local.now - engine.since
            return MarkReady(engine=engine.id, reason=f"engine {engine.id} is ready after {took:.0f} s")
        if engine.state is EngineState.UNHEALTHY and engine.answered and engine.answered > engine.since:
            return MarkReady(engine=engine.id, reason=f"engine {engine.id} answers again")
    return None


def _mark_unhealthy(local: Local, timers: Timers) -> Action | None:
    for engine in local.engines.values():
        if engine.state is not EngineState.READY or not engine.running:
            continue
        silent = (engine.looked or 0.0) - max(engine.answered or 0.0, engine.since)
        if silent >= timers.unhealthy_after:
            return MarkUnhealthy(
                engine=engine.id,
                reason=f"engine {engine.id} gets no more requests: /health did not answer for {silent:.0f} s",
            )
    return None


def _forgive(local: Local, timers: Timers) -> Action | None:
    for engine in local.engines.values():
        healthy = engine.state is EngineState.READY and local.now - engine.since >= timers.healthy_after
        if engine.failures and healthy:
            return Forgive(
                engine=engine.id,
                reason=f"engine {engine.id} was healthy for {timers.healthy_after:g} s: its failures are forgiven",
            )
    return None


def _start(wanted: Mapping[str, Wanted], local: Local) -> Action | None:
    if local.leaving:
        return None
    for want in wanted.values():
        engine = local.engines.get(want.id)
        if want.part and not want.generation:
            continue
        if engine is None:
            return Start(engine=want.id, reason=f"engine {want.id} starts")
        held = engine.next_start is not None and local.now < engine.next_start
        if not engine.running and engine.exit is None and not held:
            again = f" again (failure count {engine.failures})" if engine.failures else ""
            return Start(engine=want.id, reason=f"engine {want.id} starts{again}")
    return None
