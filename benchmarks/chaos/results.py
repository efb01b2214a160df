"""What was seen, as plain data: requests, trials, a row per fault. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.chaos.verify import Outcome

LONG_PAUSE = 0.5  # seconds between two pieces of a stream, from which on a pause is noted
_REASONS = 5  # kept of each row


@dataclass
class Pause:
    """A time without a byte in a stream: when it began and ended."""

    begin: float
    end: float


@dataclass
class Request:
    """What one client saw of one request. Times are seconds on one monotonic clock.

    Attributes:
        number: of the question.
        entry: which of the load's ways in it took.
        began: when it was sent.
        streamed: whether the answer is a stream.
        port: the client's TCP port.
        ended: when its last byte came, or when it broke; None while it is open.
        outcome: of the verdict.
        reason: of the verdict.
        pauses: longer ones than `LONG_PAUSE`.
        excused: what happened to it had to happen: its own gateway process was killed.
    """

    number: int
    entry: int
    began: float
    streamed: bool = True
    port: int = 0
    ended: float | None = None
    outcome: Outcome = Outcome.GOOD
    reason: str = ""
    pauses: list[Pause] = field(default_factory=list)
    excused: bool = False

    @property
    def bad(self) -> bool:
        """Whether it ended otherwise than it should have."""
        return self.ended is not None and self.outcome is not Outcome.GOOD and not self.excused


@dataclass
class Trial:
    """One fault, once. Seconds; None where it was not seen.

    Attributes:
        detection: from the fault until it was noticed.
        recovery: from the fault, or from its repair where only people can repair it, until full strength.
        last_error: from the fault until the last request that ended badly had ended; 0 without any.
        pause: longest time without a byte of any stream that was open when the fault came; 0 without a long one.
        problems: what else was not as it should be.
    """

    detection: float | None = None
    recovery: float | None = None
    last_error: float = 0.0
    pause: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class Row:
    """Everything about one fault on one system.

    Attributes:
        system: ``shoal``, or a peer with its version.
        fault: its name.
        skipped: why it was not tried; "" if it was.
    """

    system: str
    fault: str
    skipped: str = ""
    trials: list[Trial] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    broken: int = 0
    wrong: int = 0
    excused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, requests: Iterable[Request]) -> None:
        """Count the requests that have ended."""
        reasons: Counter[str] = Counter(self.reasons)
        for request in requests:
            if request.ended is None:
                continue
            self.requests += 1
            if request.excused:
                self.excused += 1
            elif request.outcome is not Outcome.GOOD:
                name = request.outcome.value
                setattr(self, name, getattr(self, name) + 1)
                reasons[f"{name}: {request.reason}"] += 1
        self.reasons = dict(reasons.most_common(_REASONS))

    def problem(self, text: str) -> None:
        """Note what went wrong, once."""
        if text not in self.problems:
            self.problems.append(text)

    def values(self, name: str) -> list[float]:
        """Return what was seen of `name`, an attribute of `Trial`."""
        return [value for trial in self.trials if (value := getattr(trial, name)) is not None]

    def as_json(self) -> dict[str, Any]:
        """Return the row for a JSON file."""
        return asdict(self)


def row_from_json(document: Mapping[str, Any]) -> Row:
    """Return the row that `Row.as_json` made."""
    return Row(**{**document, "trials": [Trial(**trial) for trial in document["trials"]]})


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the least value that at least `share` of the values do not exceed (nearest rank); None without any."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def last_error(requests: Iterable[Request], fault: float, until: float) -> float:
    """Return the seconds from `fault` to the end of the last bad request that ended between it and `until`."""
    ends = [r.ended for r in requests if r.bad and r.ended is not None and fault <= r.ended <= until]
    return max(ends) - fault if ends else 0.0


def longest_pause(requests: Iterable[Request], fault: float, until: float) -> float:
    """Return the longest pause of streams that spans `fault` or begins after it, and ends before `until`."""
    pauses = [p.end - p.begin for r in requests for p in r.pauses if p.end >= fault and p.begin <= until]
    return max(pauses, default=0.0)


def moved_on(requests: Iterable[Request], fault: float, until: float) -> float | None:
    """Return the seconds from `fault` until the last stream that it silenced went on or ended; None if there is none.

    A stream counts as silenced when it was open at the fault and then had a long pause that began within a second.
    """
    ends = [
        p.end
        for r in requests
        if r.began < fault
        for p in r.pauses
        if p.end > fault and fault - LONG_PAUSE <= p.begin <= fault + 1 and p.end <= until
    ]
    return max(ends) - fault if ends else None
