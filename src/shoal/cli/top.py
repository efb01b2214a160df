"""`shoal top`: nodes, engines, rates and events of a cluster, live in a terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from shoal.cli.arguments import AsJson, OrderedNode, OrderFile, OrderingKey
from shoal.cli.asked import Asked
from shoal.cli.control import NoAnswer, ask_any_text, order

_MISSING = "it needs Textual, which is not installed: pip install 'shoal[top]'"


class ClusterSource:
    """Where `shoal top` gets what it shows: the nodes that a command line names.

    Args:
        asked: those nodes.
        key: admin key.
    """

    def __init__(self, asked: Asked, key: str | None) -> None:
        self._asked = asked
        self._key = key

    def status(self) -> dict[str, Any]:
        """Return the status document; raise NoAnswer without one."""
        document: dict[str, Any] = self._asked.document("/shoal/v1/status")
        return document

    def metrics(self) -> str:
        """Return the cluster's metrics; raise NoAnswer without them."""
        return ask_any_text(self._asked.config, self._asked.url, "/metrics/cluster", self._key)

    def order(self, path: str, arguments: dict[str, Any]) -> None:
        """Give an order; raise NoAnswer or Refused where it is not taken."""
        order(self._asked.config, self._asked.url, path, arguments, key=self._key)


def top(
    config: OrderFile = None,
    at: OrderedNode = None,
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two looks.")] = 1.0,
    as_json: AsJson = False,
    key: OrderingKey = None,
) -> None:
    """Show nodes, engines, rates and events of the cluster, live; q ends it.

    Keys: s sorts by the next column, r turns the order around, d drains the node under the cursor and u puts it back,
    after a question. With --json one look is printed instead. Exit status: 0, 2 when nobody could be asked.
    """
    asked = Asked("top", config, at, key)
    source = ClusterSource(asked, key)
    try:
        if as_json:
            import json  # noqa: PLC0415 - rarely needed

            typer.echo(json.dumps(source.status(), indent=2, ensure_ascii=False))
            return
        source.status()
    except NoAnswer as error:
        asked.end(error)
    try:
        from shoal.cli.top_app import Top  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("textual"):
            raise
        asked.fail(_MISSING, 2)
    if not sys.stdout.isatty():
        asked.fail("it needs a terminal; `shoal status` prints, and so does --json", 2)
    Top(source, interval).run()
