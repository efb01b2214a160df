"""What a check has found. Plain data."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # it will work, worse than it could
    ERROR = "error"  # it will not work


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A finding.

    Attributes:
        level: how bad it is.
        check: what was looked at, one word: ``config``, ``ports``, ``model`` and so on.
        text: what was found, a sentence without the full stop.
        fix: what to do about it, "" where nothing is to be done.
    """

    level: Level
    check: str
    text: str
    fix: str = ""


def ok(check: str, text: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(level=Level.OK, check=check, text=text)


def warning(check: str, text: str, fix: str) -> Finding:
    """Return a finding that somebody should know of."""
    return Finding(level=Level.WARNING, check=check, text=text, fix=fix)


def failure(check: str, text: str, fix: str) -> Finding:
    """Return a finding that keeps the cluster from working."""
    return Finding(level=Level.ERROR, check=check, text=text, fix=fix)


def worst(findings: list[Finding]) -> Level:
    """Return the worst level there is."""
    levels = [finding.level for finding in findings]
    return next((level for level in (Level.ERROR, Level.WARNING) if level in levels), Level.OK)
