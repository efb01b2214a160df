import pytest
from benchmarks.gateway.__main__ import chosen
from benchmarks.gateway.peers import TARGETS
from benchmarks.gateway.run import BenchError


def test_all_targets_are_measured_in_a_full_run_and_fewer_in_a_quick_one() -> None:
    assert chosen(None, quick=False) == list(TARGETS)
    assert 0 < len(chosen(None, quick=True)) < len(TARGETS)


def test_targets_are_named_by_their_beginnings() -> None:
    assert [t.name for t in chosen("direct, nginx", quick=True)] == ["direct", "nginx"]
    assert {t.name.split()[0] for t in chosen("smg", quick=True)} == {"smg"}


def test_an_unknown_target_is_told_with_those_there_are() -> None:
    with pytest.raises(BenchError, match=r"no target 'ngnix'; there are .*'nginx'"):
        chosen("ngnix", quick=False)
