"""Results in the documentation: between two marks in a page. Pure."""

from __future__ import annotations


class NoPlaceError(Exception):
    """A page has no marks; the message is for people."""


def replace_results(text: str, results: str, mark: str = "results") -> str:
    """Return a page with `results` between its lines ``<!-- MARK: begin -->`` and ``<!-- MARK: end -->``.

    Raises:
        NoPlaceError: it has none.
    """
    begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->\n"
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise NoPlaceError(f"the page has no lines {begin.strip()} and {end.strip()}.")
    return f"{head}{begin}{results}{end}{tail}"
