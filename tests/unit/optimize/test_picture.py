from __future__ import annotations

from xml.etree import ElementTree

from shoal.optimize.picture import svg
from unit.optimize.test_compare import A, B, measured

_SVG = "{http://www.w3.org/2000/svg}"


def test_every_pair_has_two_bars_whose_lengths_are_their_values() -> None:
    picture = ElementTree.fromstring(svg(A, B))
    bars = [r for r in picture.iter(f"{_SVG}rect") if r.get("height") == "11"]
    widths = [float(r.get("width", "")) for r in bars]
    assert len(widths) == 2 * (2 + 2 * len(A.speeds))
    assert widths[0] == 2 * widths[1]  # 200 MB and 100 MB
    texts = [t.text for t in picture.iter(f"{_SVG}text")]
    assert {"a", "b", "200", "100", "10.5", "tokens/s, 4 at once"} <= set(texts)


def test_names_are_escaped() -> None:
    assert "<b>" not in svg(A, measured(name="<b>&"))
