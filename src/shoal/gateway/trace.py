"""What a worker remembers of requests, to explain them: why which engine, what was tried again, what it took.

Nearly all requests leave nothing behind, and cost no more than a look at one attribute. A request is followed from its
beginning when its client named it (``x-request-id``) or the settings want all of them (`WorkerSettings.explain`), and
from its first mishap on when something goes wrong: an engine fails it, its stream goes on elsewhere, it ends with a
server error, it takes long. What was followed is kept in a ring, the oldest gives way.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.gateway.responses import message_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span

    from shoal.gateway.messages import Report, WorkerSettings
    from shoal.gateway.request import Request
    from shoal.gateway.responses import Answer
    from shoal.gateway.spans import Spans
    from shoal.gateway.usage import Usage
    from shoal.routing.policy import Policy
    from shoal.routing.table import EngineTarget

HEADER = b"x-request-id"
"""Field in which a client names its request, and an answer its name."""

_HUMP = re.compile(r"(?<!^)(?=[A-Z])")  # in the name of a policy's class
_MAX_NAME = 200  # bytes of a name that is taken
_CANDIDATES = 64  # that are remembered of one choice
_PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "embd-", "score-", "rerank-", "classify-", "pool-")


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened to a request.

    Attributes:
        at: seconds since its beginning.
        what: ``picked`` (it was sent to `engine`), ``failed`` (there), ``resumed`` (there, after `tokens`), ``queued``
            (for `seconds`), ``refused`` (by the gateway, without an engine) or ``broken`` (no engine could go on).
        engine: full id.
        text: a reason, for people.
        policy: that chose; "" where there was nothing to choose.
        candidates: what it saw: ``engine``, and what it went by.
        of: engines there were, ejected and failed ones included.
        tokens: that the client had.
        seconds: waited.
    """

    at: float
    what: str
    engine: str = ""
    text: str = ""
    policy: str = ""
    candidates: tuple[dict[str, Any], ...] = ()
    of: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """A request and its way, as it is told.

    Attributes:
        id: its name: its client's, or one that the gateway has given it.
        answer_id: ``id`` in the body of its answer, as far as that is known.
        began: seconds since the epoch.
        method: of the request.
        path: of the request.
        model: as its client named it.
        key: name of the API key, "" without one.
        stream: it asked for a stream.
        status: HTTP status of the answer; 499: its client went away.
        seconds: until the end of the answer.
        queued: seconds of them that it waited for room in an engine.
        first: seconds until the first event of its stream; 0 where there is none.
        events: of its stream, about.
        engine: that answered, or was the last to be asked.
        attempts: engines that were asked to answer or to go on.
        followed: from its beginning; else from the first thing that went wrong.
        steps: what happened, in order.
    """

    id: str
    answer_id: str
    began: float
    method: str
    path: str
    model: str
    key: str
    stream: bool
    status: int
    seconds: float
    queued: float
    first: float
    events: int
    engine: str
    attempts: int
    followed: bool
    steps: tuple[Step, ...]


class Trace:
    """The notes about one request while it is under way.

    Args:
        name: what it is called.
        began: when it began, nanoseconds of the steady clock.
        followed: it has only begun.

    Attributes:
        name: the same.
        began: the same.
        followed: the same.
        steps: what has happened.
        span: that of OpenTelemetry, None without one.
    """

    __slots__ = ("_choice", "began", "followed", "name", "span", "steps")

    def __init__(self, name: str, began: int, *, followed: bool) -> None:
        self.name = name
        self.began = began
        self.followed = followed
        self.steps: list[Step] = []
        self.span: Span | None = None
        self._choice: tuple[str, tuple[dict[str, Any], ...], int] | None = None

    def at(self) -> float:
        """Return the seconds since the beginning."""
        return (monotonic_ns() - self.began) / 1e9

    def consider(
        self,
        policy: Policy,
        engines: Sequence[EngineTarget],
        in_flight: Sequence[int],
        request: Request,
        of: int,
    ) -> None:
        """Note what a policy is about to choose from; to be called before it does.

        Args:
            policy: chooses.
            engines: its candidates.
            in_flight: their open requests, empty where the policy does not look at them.
            request: the request.
            of: engines there are.
        """
        rows: list[dict[str, Any]] = [{"engine": engine.id} for engine in engines]
        for row, count in zip(rows, in_flight, strict=False):
            row["open"] = count
        if len({engine.weight for engine in engines}) > 1:
            for row, engine in zip(rows, engines, strict=True):
                row["weight"] = engine.weight
        weighs = getattr(policy, "weighs", None)
        if weighs is not None:
            for row, seen in zip(rows, weighs(engines, in_flight, request), strict=True):
                row.update(seen)
        name = _HUMP.sub("_", type(policy).__name__).lower()
        self._choice = (name, tuple(rows[:_CANDIDATES]), of)

    def picked(self, engine: str) -> None:
        """The request goes to an engine."""
        policy, candidates, of = self._choice or ("", (), 0)
        self._choice = None
        self.steps.append(
            Step(at=self.at(), what="picked", engine=engine, policy=policy, candidates=candidates, of=of)
        )

    def note(self, what: str, **more: Any) -> None:
        """Note another step, see `Step`."""
        self.steps.append(Step(at=self.at(), what=what, **more))

    def named(self, answer: Answer) -> Answer:
        """Return an answer with the name of its request."""
        return msgspec.structs.replace(
            answer, headers=(*answer.headers, b"%b: %b" % (HEADER, self.name.encode()))
        )


def name_in(value: bytes) -> bytes:
    """Return a client's name for its request; ``b""`` if it is none that could be told to anybody."""
    value = value.strip()
    return value if len(value) <= _MAX_NAME and value.isascii() and value.decode().isprintable() else b""


class Traces:
    """What a worker has noted.

    Args:
        settings: the worker's.
        report: takes messages for the node process.

    Attributes:
        watching: more requests are followed than those that their clients have named.
        spans: makes spans for OpenTelemetry, None where none are wanted.
        slow: nanoseconds after which a request is kept.
    """

    def __init__(self, settings: WorkerSettings, report: Callable[[Report], None]) -> None:
        self._all = settings.explain == "all"
        self.spans = _spans(settings, report) if settings.trace_sample else None
        self.watching = self._all or self.spans is not None
        self.slow = int(settings.explain_slow * 1e9)
        self._kept: deque[Explained] = deque(maxlen=settings.explain_kept)

    def follow(self, request: Request) -> None:
        """Follow a request from here, its beginning, on, if anybody wants to know of it."""
        span = self.spans.begin(request) if self.spans is not None else None
        if span is None and not self._all and not request.id:
            return
        name = request.id.decode()
        if not name and not self._all:
            name = _new_name()
        elif not name:
            # Its engine learns the name, too, and has it in the id of its answer.
            name = _new_name()
            request.head += b"\r\n%b: %b" % (HEADER, name.encode())
        request.trace = Trace(name, monotonic_ns(), followed=True)
        request.trace.span = span
        request.known = None  # its engine may have got a line more than others,
        request.plain = False  # and its answer gets one

    def late(self, request: Request, began: int) -> Trace:
        """Return the notes of a request that something has happened to, which may not have been followed before."""
        trace = request.trace
        if trace is None:
            trace = request.trace = Trace(request.id.decode() or _new_name(), began, followed=False)
        return trace

    def refused(self, request: Request, answer: Answer) -> Answer:
        """Remember a request that was refused before an engine was looked for, and return the answer with its name.

        As of others: those that their clients named, and those that end with a server error.
        """
        if not request.id and answer.status < 500:
            return answer
        trace = self.late(request, monotonic_ns())
        trace.note("refused", text=message_of(answer))
        fields = request.fields
        told = Explained(
            id=trace.name,
            answer_id="",
            began=epoch(trace.began),
            method=request.method.decode("latin-1"),
            path=request.target.partition(b"?")[0].decode("latin-1"),
            model=(fields.model or "") if fields is not None else "",
            key=request.key.name if request.key is not None else "",
            stream=request.stream,
            status=answer.status,
            seconds=trace.at(),
            queued=0.0,
            first=0.0,
            events=0,
            engine="",
            attempts=0,
            followed=True,
            steps=tuple(trace.steps),
        )
        self.keep(trace, told)
        return trace.named(answer)

    def keep(self, trace: Trace, explained: Explained, usage: Usage | None = None) -> None:
        """Remember a request that has ended, and send its span, if it has one; `usage` is for that alone."""
        self._kept.append(explained)
        span, trace.span = trace.span, None
        if span is not None and self.spans is not None:
            self.spans.end(span, explained, usage)

    def close(self) -> None:
        """Send spans that have not gone yet, and wait for that."""
        if self.spans is not None:
            self.spans.close()

    def find(self, name: str) -> tuple[Explained, ...]:
        """Return the requests of a name, newest first: that of the request, or the id in the body of the answer."""
        bare = next((name.removeprefix(p) for p in _PREFIXES if name.startswith(p)), name)
        wanted = {name, bare}
        return tuple(
            e for e in reversed(self._kept) if e.id in wanted or (e.answer_id and e.answer_id in wanted)
        )


def _spans(settings: WorkerSettings, report: Callable[[Report], None]) -> Spans | None:
    try:
        # Late: an extra, and a tenth of a second for nothing where no spans are wanted.
        from shoal.gateway.spans import Spans  # noqa: PLC0415
    except ImportError as error:
        from shoal.gateway.messages import WorkerNotice  # noqa: PLC0415 - it imports this module

        text = f"tracing.sample is set and OpenTelemetry is not there ({error}): pip install 'shoal[tracing]'"
        report(WorkerNotice(f"{text}; the gateway serves without spans", "warning"))
        return None
    return Spans(settings)


def epoch(began: int) -> float:
    """Return a time of the steady clock (nanoseconds) in seconds since the epoch."""
    return time.time() - (monotonic_ns() - began) / 1e9


def _new_name() -> str:
    return os.urandom(16).hex()
