import io

import pytest

from lib.progress import Steps, duration, size


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (65, "1 min 05 s"), (3600, "60 min 00 s")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (28_000, "28 kB"), (132.7e6, "132.7 MB"), (2e9, "2.0 GB")]
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert size(count) == text


def test_without_a_terminal_a_step_is_a_line_at_its_start_and_at_its_end() -> None:
    out = io.StringIO()
    steps = Steps(2, out)
    with steps.step("first"):
        pass
    with pytest.raises(ValueError, match="wrong"), steps.step("second"):
        raise ValueError("wrong")
    lines = out.getvalue().splitlines()
    assert lines[0] == "  [1/2] first ..."
    assert lines[1].startswith("  [1/2] first: done in ")
    assert lines[3].startswith("  [2/2] second: failed after ")
    assert "\x1b" not in out.getvalue()


def test_a_long_step_says_now_and_then_what_it_is_at() -> None:
    class Out(io.StringIO):
        def write(self, text: str) -> int:
            written = super().write(text)
            if "unpacking" in text:
                self.seen = True
            return written

        seen = False

    out = Out()
    steps = Steps(1, out, every=0.01)
    with steps.step("long") as step:
        step.detail = lambda: "unpacking"
        while not out.seen:
            pass
    assert "unpacking" in out.getvalue()
