"""docs/metrics.md must name every metric there is, as the code describes it."""

import re
from pathlib import Path

from shoal.gateway import outcomes
from shoal.observe.catalog import METRICS, as_markdown

TEXT = (Path(__file__).parents[3] / "docs/metrics.md").read_text()


def test_the_tables_are_those_of_the_catalogue():
    begin, end = "<!-- catalogue: begin -->\n", "<!-- catalogue: end -->"
    assert TEXT.partition(begin)[2].partition(end)[0].strip() == as_markdown().strip(), (
        "make it anew: python -m shoal.observe"
    )


def test_everything_named_in_the_text_exists():
    names = set(re.findall(r"shoal_[a-z0-9_]+", TEXT))
    suffix = re.compile(r"_(total|bucket|sum|count)$")
    assert {name for name in names if name not in METRICS and suffix.sub("", name) not in METRICS} == set()


def test_names_follow_prometheus_conventions():
    for name, described in METRICS.items():
        assert re.fullmatch(r"shoal_[a-z0-9_]+", name)
        assert not name.endswith("_total"), "counters get it by themselves"
        assert described.text.endswith("."), name
        if described.kind == "histogram":
            assert name.endswith("_seconds")


def test_the_buckets_include_vllms():
    vllm_e2e = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
    assert set(vllm_e2e) <= set(outcomes.WHOLE)
    for bounds in (outcomes.FIRST_EVENT, outcomes.BETWEEN_EVENTS, outcomes.WHOLE):
        assert list(bounds) == sorted(set(bounds))
