import pytest

from shoal.node.agreement import version_problem


@pytest.mark.parametrize(
    ("theirs", "fits"), [("1.9.0", True), ("1.0.0rc1", True), ("2.0.0", False), ("0.9.1", False)]
)
def test_major_versions_must_be_the_same(theirs: str, fits: bool):
    problem = version_problem(theirs, "1.2.3")
    assert (problem is None) is fits
    assert fits or theirs in (problem or "")
