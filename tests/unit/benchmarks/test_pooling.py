import pytest
from benchmarks.pooling.results import DIRECT, ONE, TARGETS, TWO, Sample, markdown, quantile, ratio, sample


def test_a_sample_is_a_rate_and_sorted_times() -> None:
    assert sample([0.3, 0.1, 0.2], 0.5) == Sample(6.0, (0.1, 0.2, 0.3))
    assert [quantile((1.0, 2.0, 3.0, 4.0), share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 3, 4, 4]


def test_ratios_are_of_the_same_round() -> None:
    # The machine got twice as slow from one round to the next: the ratio is the same in both.
    samples = {
        (DIRECT, 1): [Sample(10, (0.1,)), Sample(5, (0.2,))],
        (ONE, 1): [Sample(9, (0.1,)), Sample(4.5, (0.2,))],
        (TWO, 1): [Sample(19, (0.1,)), Sample(9.5, (0.2,))],
    }
    assert ratio(samples, ONE, 1) == pytest.approx(0.9)
    assert ratio(samples, TWO, 1) == pytest.approx(1.9)
    lines = markdown(samples, [1]).splitlines()
    assert len(lines) == 2 + len(TARGETS)
    assert lines[-1] == "| Shoal, 2 engines | 1 | 14.25 | 1.90 x | 200 ms | 200 ms |"
