import pytest
from benchmarks.gateway.__main__ import chosen, replace_results
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


def test_results_replace_those_of_an_earlier_run() -> None:
    text = "before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n"
    assert (
        replace_results(text, "new\n")
        == "before\n<!-- results: begin -->\nnew\n<!-- results: end -->\nafter\n"
    )


def test_a_document_without_a_place_for_results_is_refused() -> None:
    with pytest.raises(BenchError, match="has no lines"):
        replace_results("no marks", "new\n")
