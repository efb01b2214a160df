"""The picture: cost per request and per streamed event of every target, as an SVG without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.gateway.peers import Kind
from benchmarks.gateway.results import CPU_EVENT, CPU_REQUEST, Metric, Row, number

_NAMES = 190  # width of the names, pixels
_PANEL = 330
_GAP = 70
_LINE = 30
_TOP = 74
_COLOURS = {Kind.SHOAL: "#0b6bcb", Kind.PART: "#0b6bcb", Kind.PROXY: "#3f8f4f", Kind.RUST: "#b7582a"}
_OTHER = "#777777"
_STYLE = "font-family: system-ui, 'DejaVu Sans', sans-serif; font-size: 13px"


def decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten that enclose `values`, at least one decade apart."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _panel(left: int, title: str, rows: Sequence[Row], metric: Metric) -> list[str]:
    spreads = [found for row in rows if (found := row.spread(metric)) is not None and found.low > 0]
    if not spreads:
        return []
    low, high = decades([s.low for s in spreads] + [s.high for s in spreads])
    bottom = _TOP + _LINE * len(rows)

    def x(value: float) -> float:
        return left + _PANEL * (math.log10(value) - low) / (high - low)

    parts = [f'<text x="{left}" y="{_TOP - 46}" font-weight="600">{escape(title)}</text>']
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 8}" y2="{bottom}" stroke="#dddddd"/>')
        label = f"{10.0**power:,.0f}" if power >= 0 else f"{10.0**power:g}"
        parts.append(f'<text x="{at:.1f}" y="{_TOP - 16}" fill="#555555" text-anchor="middle">{label}</text>')
    for index, row in enumerate(rows):
        found = row.spread(metric)
        if found is None or found.low <= 0:
            continue
        y, colour = _TOP + _LINE * index + _LINE / 2, _COLOURS.get(row.kind, _OTHER)
        low_x, high_x, at = x(found.low), x(found.high), x(found.median)
        parts.append(
            f'<line x1="{low_x:.1f}" x2="{high_x:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<circle cx="{at:.1f}" cy="{y}" r="5" fill="{colour}"/>')
        parts.append(
            f'<text x="{max(high_x, at + 5) + 6:.1f}" y="{y + 4.5}" fill="{colour}">{number(found.median)}</text>'
        )
    return parts


def svg(rows: Sequence[Row]) -> str:
    """Return the picture of the targets that have a cost, in the order of `rows`."""
    shown = [row for row in rows if row.median(CPU_REQUEST) is not None or row.median(CPU_EVENT) is not None]
    width, height = _NAMES + 2 * (_PANEL + _GAP), _TOP + _LINE * len(shown) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><g style="{_STYLE}">',
    ]
    for index, row in enumerate(shown):
        y, weight = _TOP + _LINE * index + _LINE / 2 + 4.5, "600" if row.kind is Kind.SHOAL else "400"
        colour = _COLOURS.get(row.kind, _OTHER)
        parts.append(
            f'<text x="{_NAMES - 14}" y="{y}" text-anchor="end" fill="{colour}" font-weight="{weight}">'
            f"{escape(row.name)}</text>"
        )
    parts += _panel(_NAMES, "CPU µs per request (1 KB, 64 connections)", shown, CPU_REQUEST)
    parts += _panel(_NAMES + _PANEL + _GAP, "CPU µs per event (64 paced streams)", shown, CPU_EVENT)
    foot = "Median and range of interleaved repeats, logarithmic. Less is better."
    parts.append(f'<text x="{_NAMES}" y="{height - 14}" fill="#555555">{foot}</text></g></svg>')
    return "\n".join(parts) + "\n"
