"""What a node knows of one of its engines."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from shoal.cluster.view import EngineState
from shoal.engine.activity import Activity
from shoal.engine.metrics import Load
from shoal.engine.process import EngineProcess
from shoal.engine.spec import Part


@dataclass
class ManagedEngine:
    """What is known of one engine. Times as in `Actual`, where most of this goes.

    Attributes:
        id: unique on the node.
        model: the model's name in the configuration.
        kind: ``vllm``, ``sim`` or ``command``.
        state: where it is in its life.
        since: when it got there.
        host: address it listens on.
        port: TCP port it listens on; 0 without a process.
        fingerprint: of what runs.
        authority: of the certificates it shows and demands, "" for plain HTTP.
        health: path that answers 200 when it is well.
        process: what runs.
        busy: it is being started, so nothing else may begin.
        stopping: it was asked to go: its end is nobody's failure.
        ending: it has failed and is being killed.
        away: it was asked to go and has not been ready since.
        why: what it is killed for.
        ready: it answered /health and the canary since it was started.
        answered: when it last answered.
        looked: when it last answered or was found not to answer.
        progressed: when it was last seen to get something done, or to have nothing to do.
        worked: when it was last seen to compute while it got nothing done.
        activity: tells whether it computes.
        canary: the question for a token that it was asked while it had nothing to show.
        exit: how it ended, until a rule has handled that.
        failures: since it was last forgiven.
        next_start: not started again before this.
        restarts: starts after the first one.
        served: ids it answers to.
        max_model_len: context length in tokens, as far as it tells.
        load: what it last said of its load.
        said: all that it said under ``/metrics`` then.
        detail: sentence about its state.
        errors: last lines of its log at its last failure.
        part: which part of an engine across nodes it was started as last, None for a whole engine.
        lifeline: TCP port of `shoal.engine.lifeline`; 0 without one.
        broken: why it cannot go on, though it has not ended; None if it can.
        over: how it ended or what it is killed for, until that is `exit`; None while nothing is wrong.
    """

    id: str
    model: str
    kind: str
    state: EngineState = EngineState.WAITING
    since: float = field(default_factory=time.monotonic)
    host: str = ""
    port: int = 0
    fingerprint: str = ""
    authority: str = ""
    health: str = "/health"
    process: EngineProcess | None = None
    busy: bool = False
    stopping: bool = False
    ending: bool = False
    away: bool = False
    why: str = ""
    ready: bool = False
    answered: float | None = None
    looked: float | None = None
    progressed: float = 0.0
    worked: float = 0.0
    activity: Activity = field(default_factory=Activity)
    canary: asyncio.Task[None] | None = None
    exit: str | None = None
    failures: int = 0
    next_start: float | None = None
    restarts: int = -1
    served: tuple[str, ...] = ()
    max_model_len: int | None = None
    load: Load = field(default_factory=Load)
    said: str = ""
    detail: str = ""
    errors: tuple[str, ...] = ()
    part: Part | None = None
    lifeline: int = 0
    broken: str | None = None
    over: str | None = None

    @property
    def follows(self) -> bool:
        """Whether it answers no requests because another node's part leads it."""
        return self.part is not None and self.part.follows

    @property
    def any_program(self) -> bool:
        """Whether it may be other than vLLM, and so without counters or endpoints that vLLM has."""
        return self.kind == "command"

    @property
    def uncounted(self) -> bool:
        """Whether nothing but its health tells how it is: a program without counters that we know."""
        return self.any_program and not self.load.counted

    def enter(self, state: EngineState, detail: str | None = None) -> None:
        """Change the state, now; `detail` replaces the sentence about it."""
        self.state = state
        self.since = time.monotonic()
        if detail is not None:
            self.detail = detail

    def seen_well(self) -> None:
        """Note that it answers, and that it gets something done or has nothing to do."""
        self.looked = self.answered = self.progressed = time.monotonic()

    def unwatched(self, seconds: float) -> None:
        """Let a time in which nobody looked, because this process did not run, count for nothing."""
        self.progressed += seconds
        self.worked += seconds
        if self.answered is not None:
            self.answered += seconds
