from xml.etree import ElementTree

import pytest
from benchmarks.gateway.chart import decades, svg
from benchmarks.gateway.peers import Kind
from benchmarks.gateway.results import Row


@pytest.mark.parametrize(
    ("values", "expected"), [([22.0, 86.0], (1, 2)), ([22.0, 16915.0], (1, 5)), ([10.0, 10.0], (1, 2))]
)
def test_an_axis_encloses_all_values(values: list[float], expected: tuple[int, int]) -> None:
    assert decades(values) == expected


def test_the_picture_is_proper_xml_with_every_target_that_has_a_cost() -> None:
    direct, nginx, shoal = Row("direct", Kind.DIRECT), Row("nginx <1>", Kind.PROXY), Row("shoal", Kind.SHOAL)
    nginx.add({"cpu_request": 22.0, "cpu_event": 17.0})
    shoal.add({"cpu_request": 30.0})
    text = "".join(ElementTree.fromstring(svg([direct, nginx, shoal])).itertext())
    assert "nginx <1>" in text
    assert "shoal" in text
    assert "direct" not in text


def test_without_any_cost_there_is_an_empty_picture() -> None:
    assert ElementTree.fromstring(svg([Row("direct", Kind.DIRECT)])).tag.endswith("svg")
