import pytest
from benchmarks.gateway.document import NoPlaceError, replace_results


def test_results_replace_those_of_an_earlier_run() -> None:
    text = "before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n"
    assert (
        replace_results(text, "new\n")
        == "before\n<!-- results: begin -->\nnew\n<!-- results: end -->\nafter\n"
    )


def test_a_page_may_hold_several_results() -> None:
    text = "<!-- a: begin -->\n<!-- a: end -->\n<!-- b: begin -->\nold\n<!-- b: end -->\n"
    assert replace_results(text, "new\n", "b") == text.replace("old", "new")


def test_a_document_without_a_place_for_results_is_refused() -> None:
    with pytest.raises(NoPlaceError, match="has no lines"):
        replace_results("no marks", "new\n")
