"""The picture: time to first token of every target, median to 99th percentile, as an SVG without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.gateway.chart import decades
from benchmarks.routing.report import groups, title_of
from benchmarks.routing.results import ORACLES, Row

_NAMES = 200  # width of the names, pixels
_PANEL = 300
_GAP = 60
_LINE = 24
_HEAD = 62
_OURS, _PEER, _ORACLE = "#0b6bcb", "#b7582a", "#777777"
_STYLE = "font-family: system-ui, 'DejaVu Sans', sans-serif; font-size: 13px"


def _colour(row: Row) -> str:
    if row.target in ORACLES:
        return _ORACLE
    return _OURS if row.target.startswith("shoal") else _PEER


def _panel(left: float, top: float, title: str, names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    shown = {row.target: row for row in rows if row.trusted}
    values = [sample for row in shown.values() for sample in row.trusted]
    low, high = decades([s.p50 for s in values if s.p50 > 0] + [s.p99 for s in values if s.p99 > 0])
    bottom = top + _HEAD + _LINE * len(names)

    def x(value: float) -> float:
        return left + _PANEL * (math.log10(max(value, 10.0**low)) - low) / (high - low)

    parts = [f'<text x="{left}" y="{top + 18}" font-weight="600">{escape(title)}</text>']
    for power in range(low, high + 1):
        at, label = x(10.0**power), f"{10.0 ** (power + 3):g} ms"
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top + _HEAD - 8}" y2="{bottom}" stroke="#dddddd"/>'
        )
        parts.append(
            f'<text x="{at:.1f}" y="{top + _HEAD - 16}" fill="#555555" text-anchor="middle">{label}</text>'
        )
    for index, name in enumerate(names):
        row = shown.get(name)
        if row is None:
            continue
        p50, p90, p99 = row.median(lambda s: s.p50), row.median(lambda s: s.p90), row.median(lambda s: s.p99)
        assert p50 is not None and p90 is not None and p99 is not None
        y, colour = top + _HEAD + _LINE * index + _LINE / 2, _colour(row)
        parts.append(
            f'<line x1="{x(p50):.1f}" x2="{x(p99):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<circle cx="{x(p50):.1f}" cy="{y}" r="3" fill="{colour}"/>')
        parts.append(f'<circle cx="{x(p90):.1f}" cy="{y}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{x(p99) + 6:.1f}" y="{y + 4.5}" fill="{colour}">{p90 * 1e3:,.0f}</text>')
    return parts


def svg(rows: Sequence[Row]) -> str:
    """Return the picture: a panel for each workload, one line of panels for each number of gateways."""
    found = [(w, g, group) for w, g, group in groups(rows) if any(row.trusted for row in group)]
    lines = sorted({gateways for _, gateways, _ in found})
    workloads = list(dict.fromkeys(workload for workload, _, _ in found))
    width = _NAMES + len(workloads) * (_PANEL + _GAP)
    parts: list[str] = []
    top = 0.0
    for gateways in lines:
        here = {w: group for w, g, group in found if g == gateways}
        names = list(dict.fromkeys(row.target for group in here.values() for row in group if row.trusted))
        for index, name in enumerate(names):
            row = next(row for group in here.values() for row in group if row.target == name)
            y = top + _HEAD + _LINE * index + _LINE / 2 + 4.5
            weight = "600" if name.endswith("prefix_affinity") else "400"
            parts.append(
                f'<text x="{_NAMES - 14}" y="{y}" text-anchor="end" fill="{_colour(row)}" font-weight="{weight}">'
                f"{escape(name)}</text>"
            )
        for index, workload in enumerate(workloads):
            if workload in here:
                left = _NAMES + index * (_PANEL + _GAP)
                parts += _panel(left, top, title_of(workload, gateways), names, here[workload])
        top += _HEAD + _LINE * len(names) + 24
    height = top + 30
    foot = "Time to first token, logarithmic: median (small dot), 90th percentile (large, number), 99th (end of line)."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}">',
            f'<rect width="100%" height="100%" fill="#ffffff"/><g style="{_STYLE}">',
            *parts,
            f'<text x="{_NAMES}" y="{height - 12}" fill="#555555">{foot}</text></g></svg>\n',
        ]
    )
