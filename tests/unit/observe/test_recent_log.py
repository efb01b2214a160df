import logging

from shoal.observe.logs import KEPT, PlainFormatter, Recent


def test_the_last_lines_are_kept_with_numbers():
    recent = Recent(PlainFormatter("n:1", colour=False))
    log = logging.Logger("x")
    log.addHandler(recent)
    for n in range(KEPT + 5):
        log.warning("sentence %d", n)
    lines, last = recent.after(0)
    assert (len(lines), last) == (KEPT, KEPT + 5)
    assert lines[-1].endswith(f"n:1 warning: sentence {KEPT + 4}")
    assert recent.after(last) == ([], last)
    log.error("one more")
    assert len(recent.after(last)[0]) == 1
    # A number of a process that was there before, and has told more.
    assert len(recent.after(10**9)[0]) == KEPT
    assert recent.after(0, earliest=2e12) == ([], last + 1)
