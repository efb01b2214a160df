"""The comparison of two models as a picture: an SVG without any library. Pure."""

from __future__ import annotations

from xml.sax.saxutils import escape

from shoal.optimize.compare import Measured

_NAMES, _BARS, _VALUES = 190, 380, 110  # widths in pixels
_BAR, _GAP = 13, 16
_HEAD = 34
_COLOURS = ("#8a8f98", "#0b6bcb")
_STYLE = "font-family: system-ui, 'DejaVu Sans', sans-serif; font-size: 13px"


def svg(a: Measured, b: Measured) -> str:
    """Return pairs of bars, A above B, each pair as long as its larger value."""
    pairs = [
        ("weights, MB", a.size / 1e6, b.size / 1e6),
        ("perplexity", a.perplexity, b.perplexity),
        *(
            (f"first token, ms, {x.at_once} at once", 1000 * x.first_token, 1000 * y.first_token)
            for x, y in zip(a.speeds, b.speeds, strict=True)
        ),
        *(
            (f"tokens/s, {x.at_once} at once", x.tokens, y.tokens)
            for x, y in zip(a.speeds, b.speeds, strict=True)
        ),
    ]
    parts: list[str] = []
    for place, (name, colour) in enumerate(zip((a.name, b.name), _COLOURS, strict=True)):
        left = _NAMES + place * _BARS // 2
        parts.append(f'<rect x="{left}" y="9" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{left + 18}" y="20" font-weight="600">{escape(name)}</text>')
    top = _HEAD
    for what, *values in pairs:
        parts.append(f'<text x="{_NAMES - 12}" y="{top + _BAR + 4}" text-anchor="end">{escape(what)}</text>')
        for place, value in enumerate(values):
            y, width = top + place * _BAR, _BARS * value / max(*values, 1e-9)
            bar = f'x="{_NAMES}" y="{y}" width="{width:.1f}" height="{_BAR - 2}"'
            at = f'x="{_NAMES + width + 6:.1f}" y="{y + _BAR - 3}"'
            parts.append(f'<rect {bar} fill="{_COLOURS[place]}"/>')
            parts.append(f'<text {at} font-size="11px" fill="#555555">{value:,.4g}</text>')
        top += 2 * _BAR + _GAP
    width = _NAMES + _BARS + _VALUES
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}">',
            f'<rect width="100%" height="100%" fill="#ffffff"/><g style="{_STYLE}">',
            *parts,
            "</g></svg>\n",
        ]
    )
