"""Results as a table, for a terminal and for the documentation. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.transport.run import BAD, DECODE_MS, GOOD, Row

_HEAD = (
    "protocol",
    "link",
    "first token p50 / p99, ms",
    "gap between tokens p50 / p99, ms",
    "request p50 / p99, ms",
    "requests/s",
    "CPU per request, µs",
    "CPU per token, µs",
    "failed",
)
_DEATHS = ("protocol", "requests under way or asked", "lost", "longest wait for a first token, ms")


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells."""
    return (
        row.protocol,
        row.link,
        _pair(row.first),
        _pair(row.gap),
        _pair(row.latency),
        f"{row.rate:,.0f}",
        f"{row.cpu_request:,.0f}",
        f"{row.cpu_token:,.0f}",
        f"{row.failed} of {row.asked:,}",
    )


def death(row: Row) -> tuple[str, ...]:
    """Return the cells of a row about the death of a node."""
    return row.protocol, f"{row.asked:,}", str(row.failed), f"{row.longest:,.0f}"


def head() -> tuple[str, ...]:
    """Return the table's head."""
    return _HEAD


def missing(absent: Mapping[str, str]) -> list[str]:
    """Return sentences about protocols that were not measured.

    Args:
        absent: why, by protocol.
    """
    return [f"{protocol} was not measured here: {why}" for protocol, why in absent.items()]


def markdown(
    rows: Sequence[Row], deaths: Sequence[Row], absent: Mapping[str, str], machine: str, streams: int
) -> str:
    """Return the results as they stand in the documentation."""
    table = [_line(_HEAD), _line(["---"] * len(_HEAD)), *(_line(cells(row)) for row in rows)]
    table += [_line([p, "not measured here", *[""] * (len(_HEAD) - 2)]) for p in absent]
    lost = [_line(_DEATHS), _line(["---"] * len(_DEATHS)), *(_line(death(row)) for row in deaths)]
    said = (
        f"{machine}. {streams} streams at once, a token each {DECODE_MS} ms and stream, then as many clients with "
        "short requests; three nodes in network namespaces, mutual TLS to engines. CPU is that of all nodes' processes "
        "but the engines, and of the broker, beyond what they use when nobody asks. "
        f"`{GOOD}` are veth pairs, `{BAD}` TUN pairs "
        "that delay and lose real packets each way, from the node that is asked to the others and to the broker. "
        "kafka is Tansu with its storage in memory."
    )
    parts = [said, "", *table, "", "A node with everything on it is killed under load:", "", *lost, ""]
    sentences = [*verdicts(rows, deaths), *missing(absent)]
    return "\n".join([*parts, *(f"- {sentence}" for sentence in sentences), ""])


def verdicts(rows: Sequence[Row], deaths: Sequence[Row]) -> list[str]:
    """Return what was to be shown, and whether it was."""
    found = {(row.protocol, row.link): row for row in rows}
    sentences = []
    tcp, udp = found.get(("tcp", BAD)), found.get(("udp", BAD))
    if tcp and udp:
        held = "pass" if udp.gap[1] < tcp.gap[1] else "FAIL"
        sentences.append(
            f"p99 gap between tokens with {BAD}: udp {udp.gap[1]:.0f} ms, tcp {tcp.gap[1]:.0f} ms: {held}"
        )
    failed = sum(row.failed for row in (*rows, *deaths))
    sentences.append(f"requests that failed in all: {failed}: {'FAIL' if failed else 'pass'}")
    return sentences


def _pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.1f} / {values[1]:.1f}"


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"
