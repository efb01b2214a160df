"""`shoal explain`: why a request went where it went, and what became of it."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from shoal.cli.arguments import AsJson, AskedFile, AskingKey
from shoal.cli.asked import Asked
from shoal.cli.control import NoAnswer

EXPLAIN = "/shoal/v1/explain"

_WIDE = 300  # columns for output that no person's terminal wraps
_SEEN = {
    "open": "open requests",
    "weight": "weight",
    "cached": "cached",
    "missing": "missing",
    "work": "work ahead",
    "queued": "queued",
    "kv": "KV",
    "cost": "cost",
}


def explain(
    request: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST_ID",
            help="`x-request-id` of the request or of its answer, or the `id` in the answer's body.",
        ),
    ],
    config: AskedFile = None,
    at: Annotated[str | None, typer.Option("--at", metavar="HOST:PORT", help="Ask this node.")] = None,
    as_json: AsJson = False,
    key: AskingKey = None,
) -> None:
    """Tell why a request went to its engine, what was tried again or went on elsewhere, and what it took.

    Known are the last requests that their clients have named or that something happened to, of every gateway of the
    cluster; with `gateway.explain: all` every one. Exit status: 0, 1 when nobody knows it, 2 when nobody could be
    asked.
    """
    asked = Asked("explain", config, at, key)
    try:
        told = asked.document(f"{EXPLAIN}?{urlencode({'id': request})}")
    except NoAnswer as error:
        asked.end(error)
    if as_json:
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    unreached = (
        f" Not asked, since they do not answer: {', '.join(told['unreached'])}." if told["unreached"] else ""
    )
    if not told["requests"]:
        asked.fail(
            f"no gateway remembers a request {request}: it may be too long ago, or nothing about it was notable and "
            f"its client did not name it with `x-request-id` (`gateway.explain: all` remembers every one).{unreached}",
            1,
        )
    if as_json:
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    for one in told["requests"]:
        console.print(render(one))
    if unreached:
        typer.echo(unreached.strip(), err=True)


def render(told: dict[str, Any]) -> Group:
    """Return a request and its way for a terminal."""
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told["began"]))
    head = Text.assemble(("request ", "dim"), told["id"], ("  by the gateway of ", "dim"), told["node"])
    if told["answer_id"]:
        head.append("  answer ", "dim").append(told["answer_id"])
    status = "its client went away" if told["status"] == 499 else f"status {told['status']}"
    facts = [
        f"{clock}  {told['method']} {told['path']}",
        f"model {told['model']}",
        "stream" if told["stream"] else "",
        f"key {told['key']}" if told["key"] else "",
    ]
    times = [
        f"{status} after {told['seconds']:.3f} s",
        f"queued {told['queued']:.3f} s" if told["queued"] else "not queued",
        f"first event after {told['first']:.3f} s" if told["first"] else "",
        f"{told['events']} events" if told["events"] else "",
        f"engine {told['engine']}" if told["engine"] else "no engine",
    ]
    parts: list[Any] = [head, Text(", ".join(filter(None, facts))), Text(", ".join(filter(None, times)))]
    if not told["followed"]:
        parts.append(Text("Followed from its first mishap on: what was chosen before is not known.", "dim"))
    for step in told["steps"]:
        parts.append(Text.assemble((f"  +{step['at']:.3f} s  ", "dim"), _sentence(step)))
        if step.get("candidates"):
            parts.append(_candidates(step))
    return Group(*parts, Text())


def _sentence(step: dict[str, Any]) -> Text:
    engine, what = step.get("engine", ""), step["what"]
    if what == "picked":
        if not step.get("policy"):
            return Text(f"sent to {engine}: there was nothing to choose")
        seen = len(step["candidates"])
        among = f"{seen} engines" if seen == step["of"] else f"{seen} of {step['of']} engines"
        return Text(f"sent to {engine}: picked by {step['policy']} among {among}")
    if what == "failed":
        return Text(f"failed on {engine}: {step['text']}", "yellow")
    if what == "resumed":
        return Text(f"its stream goes on on {engine} after {step.get('tokens', 0)} tokens", "green")
    if what == "queued":
        return Text(f"waited {step['seconds']:.3f} s for room in an engine")
    if what == "refused":
        return Text(f"refused by the gateway: {step['text']}", "yellow")
    return Text(f"broken off: {step.get('text', '')}", "red")


def _candidates(step: dict[str, Any]) -> Table:
    rows = step["candidates"]
    names = [name for name in _SEEN if any(name in row for row in rows)]
    table = Table("", "", *(_SEEN[name] for name in names), box=None, pad_edge=False, header_style="dim")
    for row in rows:
        mark = "=>" if row["engine"] == step["engine"] else ""
        cells = [_number(name, row.get(name)) for name in names]
        if row.get("over") and "cost" in names:
            cells[names.index("cost")] = "more than its share"
        table.add_row(f"      {mark}", row["engine"], *cells)
    return table


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "kv":
        return f"{value:.0%}"
    return f"{value:,.0f} B" if name in ("cached", "missing", "work") else f"{value:,g}"
