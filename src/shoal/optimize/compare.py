"""What was measured of two models, side by side, and whether that is good enough. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shoal.optimize.errors import OptimizeError


@dataclass(frozen=True)
class Speed:
    """How fast an engine was with some requests at once.

    Attributes:
        at_once: how many.
        first_token: median seconds until the first token.
        per_token: median seconds from one token of a request to the next.
        tokens: per second, all requests together.
    """

    at_once: int
    first_token: float
    per_token: float
    tokens: float


@dataclass(frozen=True)
class Measured:
    """What was measured of one model.

    Attributes:
        name: its directory's.
        size: bytes of its files of weights.
        memory: bytes its engine has in use, without what it keeps for keys and values; None where not known.
        perplexity: on the held-out text.
        likeliest: for each token of that text the one the model holds likeliest.
        answers: token ids of its greedy answers.
        speeds: at several loads.
    """

    name: str
    size: int
    memory: int | None
    perplexity: float
    likeliest: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    speeds: tuple[Speed, ...]


@dataclass(frozen=True)
class Limits:
    """What is good enough; None for anything.

    Attributes:
        perplexity_rise: highest rise, 0.03 for 3 %.
        agreement: lowest share of tokens at which both hold the same one likeliest.
        speed_up: lowest factor of the time per token with one request.
        smaller: lowest factor of the size.
    """

    perplexity_rise: float | None = None
    agreement: float | None = None
    speed_up: float | None = None
    smaller: float | None = None


def perplexity_rise(a: Measured, b: Measured) -> float:
    """Return by which share B's perplexity is above A's."""
    return b.perplexity / a.perplexity - 1


def agreement(a: Measured, b: Measured) -> float:
    """Return the share of tokens for which both hold the same one likeliest."""
    return sum(x == y for x, y in zip(a.likeliest, b.likeliest, strict=True)) / len(a.likeliest)


def same_answers(a: Measured, b: Measured) -> float:
    """Return the mean share of a greedy answer up to the first token that differs."""
    shares = []
    for one, other in zip(a.answers, b.answers, strict=True):
        same = next(
            (i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other))
        )
        shares.append(same / max(len(one), len(other), 1))
    return sum(shares) / len(shares)


def speed_up(a: Measured, b: Measured) -> float:
    """Return how many times faster B gives a token of a single request."""
    return a.speeds[0].per_token / b.speeds[0].per_token


def rows(a: Measured, b: Measured) -> Iterator[tuple[str, str, str, str]]:
    """Yield the table: what, of A, of B, and how they compare."""
    yield "size of the weights", _mb(a.size), _mb(b.size), f"{a.size / b.size:.2f} x smaller"
    if a.memory is not None and b.memory is not None:
        yield "memory of the engine", _mb(a.memory), _mb(b.memory), _percent(b.memory / a.memory - 1)
    rise = perplexity_rise(a, b)
    yield "perplexity", f"{a.perplexity:.2f}", f"{b.perplexity:.2f}", _percent(rise)
    yield "same likeliest token", "", "", f"{100 * agreement(a, b):.1f} %"
    yield "greedy answer, same until", "", "", f"{100 * same_answers(a, b):.0f} % of it"
    for one, other in zip(a.speeds, b.speeds, strict=True):
        at = f"{one.at_once} at once"
        yield (
            f"first token, {at}",
            _ms(one.first_token),
            _ms(other.first_token),
            _factor(one.first_token / other.first_token),
        )
        yield (
            f"per token, {at}",
            _ms(one.per_token),
            _ms(other.per_token),
            _factor(one.per_token / other.per_token),
        )
        yield (
            f"tokens/s, {at}",
            f"{one.tokens:.1f}",
            f"{other.tokens:.1f}",
            _factor(other.tokens / one.tokens),
        )


def broken(a: Measured, b: Measured, limits: Limits) -> Iterator[str]:
    """Yield a sentence for each limit that B does not keep."""
    if limits.perplexity_rise is not None and not perplexity_rise(a, b) <= limits.perplexity_rise:
        most = _percent(limits.perplexity_rise)
        yield f"perplexity changes by {_percent(perplexity_rise(a, b))}, at most {most} is asked"
    if limits.agreement is not None and agreement(a, b) < limits.agreement:
        yield f"{agreement(a, b):.3f} of the likeliest tokens agree, at least {limits.agreement:g} are asked"
    if limits.speed_up is not None and speed_up(a, b) < limits.speed_up:
        yield f"a token comes {speed_up(a, b):.2f} times as fast, at least {limits.speed_up:g} is asked"
    if limits.smaller is not None and a.size / b.size < limits.smaller:
        yield f"the weights are {a.size / b.size:.2f} times smaller, at least {limits.smaller:g} is asked"


def share(text: str) -> float:
    """Return a share written as ``3%`` or ``0.03``.

    Raises:
        OptimizeError: it is neither.
    """
    number = text.strip().removesuffix("%").strip()
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise OptimizeError(f"{text!r} is no share; write 3% or 0.03")
    return value / 100 if text.strip().endswith("%") else value


def markdown(a: Measured, b: Measured) -> str:
    """Return the table in Markdown."""
    lines: Sequence[str] = [f"| | {a.name} | {b.name} | |", "|---|---:|---:|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(a, b))])


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _percent(value: float) -> str:
    return f"{100 * value:+.1f} %"


def _factor(value: float) -> str:
    return f"{value:.2f} x as fast"
