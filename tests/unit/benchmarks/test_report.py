import io
from typing import Any

from benchmarks.gateway import report
from benchmarks.gateway.peers import Kind
from benchmarks.gateway.results import CPU_REQUEST, P50, RATE, Metric, Row, Verdict
from rich.console import Console

DOCUMENT: dict[str, Any] = {
    "date": "2026-01-02",
    "repeats": 3,
    "slices": 2,
    "others_busy_cores": 0.02,
    "machine": {
        "cpu": "A Fast One",
        "cores": 2,
        "memory_gb": 24,
        "system": "Debian",
        "kernel": "6.1",
        "python": "3.11.7",
        "placement": "the router has a core for itself",
    },
}
VERDICTS = [Verdict(True, "this holds"), Verdict(False, "that does not"), Verdict(None, "who knows")]


def row(name: str, kind: Kind, *values: tuple[Metric, float]) -> Row:
    found = Row(name, kind, "1.0")
    found.add({metric.key: value for metric, value in values})
    return found


def rows() -> list[Row]:
    missing = Row("lost-router", Kind.RUST)
    missing.problem("pip could not install it")
    return [
        row("direct", Kind.DIRECT, (P50, 60.0), (RATE, 90_000.0)),
        row("nginx", Kind.PROXY, (CPU_REQUEST, 20.0), (P50, 110.0), (RATE, 45_000.0)),
        missing,
        row("shoal", Kind.SHOAL, (CPU_REQUEST, 30.0), (P50, 140.0), (RATE, 30_000.0)),
    ]


def test_rows_are_compared_with_nginx_and_with_no_router() -> None:
    cells = {row.name: cells for row, cells in report.compared(rows())}
    assert cells["shoal"][:2] == ["1.50", "0.67"]
    assert cells["shoal"][5] == "80.0"
    assert cells["direct"][5] == "-"
    assert cells["lost-router"] == ["-"] * len(report.COMPARED)


def test_a_terminal_gets_everything() -> None:
    out = io.StringIO()
    report.show(Console(file=out, width=132), rows(), VERDICTS, DOCUMENT)
    text = out.getvalue()
    for expected in ("shoal", "1.50", "pass  this holds", "FAIL  that does not", "A Fast One, 2 cores"):
        assert expected in text
    assert "not measured  lost-router: pip could not install it" in text


def test_markdown_has_the_same_and_no_row_without_numbers() -> None:
    text = report.markdown(rows(), VERDICTS, DOCUMENT)
    assert "| **shoal 1.0** | 30.0 (30.0–30.0) |" in text
    assert "| that does not | **miss** |" in text
    assert "- lost-router: pip could not install it" in text
    assert "| lost-router" not in text


def test_a_busy_machine_is_warned_of() -> None:
    assert report.disturbance(0.02) is None
    assert "0.40 cores" in (report.disturbance(0.4) or "")
