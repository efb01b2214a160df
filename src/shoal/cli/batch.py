"""`shoal batch`: run a file of requests through a cluster, and see what is under way."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from shoal.batch.client import Client, NobodyAnswersError, RefusedError, Way, timeout
from shoal.batch.job import Job, JobError, Result
from shoal.cli.control import KEY_VARIABLE
from shoal.config import ConfigError, load
from shoal.node.addresses import base_url
from shoal.node.lock import running_process
from shoal.node.peers import verification
from shoal.node.sockets import control_socket_of

app = typer.Typer(help="Run files of requests through a cluster (OpenAI's batches).", no_args_is_help=True)

_PLAIN_EVERY = 10.0  # s between two lines of progress where there is no terminal
_RATE_OVER = 15.0  # s that tokens per second are counted over

Cluster = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The cluster's YAML file: whichever node answers is asked."),
]
Url = Annotated[str | None, typer.Option("--url", "-u", help="URL of a node, such as http://node1:8000.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", envvar=KEY_VARIABLE, help="API key, where the cluster asks for one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def run(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Requests, one JSON object per line.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the answers.")],
    config: Cluster = None,
    url: Url = None,
    key: KeyOption = None,
    endpoint: Annotated[
        str, typer.Option(help="Path of the requests; by default that of the first one.")
    ] = "",
    window: Annotated[str, typer.Option(help="Time it must be done in: 24h, 90m, 7d.")] = "24h",
) -> None:
    """Run all requests of a file and write the answers, in the order they come.

    Started again after an interruption of any kind, it goes on with what is under way; lines whose answers the output
    has are not run again. The cluster works on while nobody watches.

    Exit status: 0 when every line is answered, 1 when some are not (they are in OUT.errors.jsonl), 2 when something
    given is wrong, 3 when no node answers, 130 after Ctrl-C.
    """
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, style="dim")

    client = _client(config, url, key, say)
    if not source.is_file():
        raise _fail(f"{source} is no file")
    job = Job(source, output, client, endpoint=endpoint, window=window, say=say)
    try:
        with Meter(console) as meter:
            result = job.run(meter.show)
    except (JobError, RefusedError) as error:
        raise _fail(str(error)) from None
    except OSError as error:
        raise _fail(f"{error.filename or output}: {error.strerror or error}") from None
    except NobodyAnswersError as error:
        typer.echo(f"shoal batch: {error}", err=True)
        raise typer.Exit(3) from None
    except KeyboardInterrupt:
        if job.batch_id:
            say(
                f"\n{job.batch_id} goes on without being watched. The same command comes back to it; "
                f"`shoal batch cancel {job.batch_id}` stops it."
            )
        raise typer.Exit(130) from None
    raise typer.Exit(_report(console, result, output))


@app.command("list")
def list_(
    config: Cluster = None,
    url: Url = None,
    key: KeyOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many at most, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the last batches."""
    found = _asked(lambda client: list(client.batches(limit)), config, url, key)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("batch", "status", "done", "failed", "total", "created", "on nodes"):
        table.add_column(name, no_wrap=True)
    for batch in found:
        counts = batch["request_counts"]
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch["created_at"]))
        numbers = (str(counts[name]) for name in ("completed", "failed", "total"))
        table.add_row(batch["id"], batch["status"], *numbers, created, ", ".join(batch["shoal"]["copies"]))
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=300)
    console.print(table)


@app.command()
def cancel(
    batch: Annotated[str, typer.Argument(help="Id of the batch.")],
    config: Cluster = None,
    url: Url = None,
    key: KeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Stop a batch; what is answered stays answered."""
    found = _asked(lambda client: client.cancel(batch), config, url, key)
    typer.echo(json.dumps(found, indent=2) if as_json else f"{batch} is {found['status']}")


class Meter:
    """Shows how far a batch is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("waiting", total=None, rate="")
        self._tokens: deque[tuple[float, int]] = deque()
        self._told = float("-inf")

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, batch: dict[str, Any]) -> None:
        """Show a batch as it is now."""
        counts, now = batch["request_counts"], time.monotonic()
        done = counts["completed"] + counts["failed"]
        self._tokens.append((now, batch["usage"]["output_tokens"]))
        while now - self._tokens[0][0] > _RATE_OVER:
            self._tokens.popleft()
        rate = tokens_per_second(list(self._tokens))
        text = f"{rate:,.0f} tokens/s" + (f", {counts['failed']} failed" if counts["failed"] else "")
        self._bar.update(
            self._task,
            description=batch["status"].replace("_", " "),
            total=counts["total"] or None,
            completed=done,
            rate=text,
        )
        if not self._console.is_terminal and now - self._told > _PLAIN_EVERY:
            self._told = now
            self._console.print(f"{batch['status']}: {done} of {counts['total'] or '?'}, {text}")


def tokens_per_second(seen: list[tuple[float, int]]) -> float:
    """Return the rate of what was seen: (seconds, tokens until then), oldest first."""
    if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
        return 0.0
    return max(0.0, (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]))


def _report(console: Console, result: Result, output: Path) -> int:
    if result.status == "nothing":
        console.print(f"nothing to do: {output} has the answers to all lines")
        return 0
    if result.status != "completed":
        console.print(f"the batch is {result.status}; the same command submits what is left", style="yellow")
    console.print(f"{result.completed} answered, {result.failed} failed; answers are in {output}")
    if result.errors is not None:
        console.print(f"what failed, and why, is in {result.errors}", style="yellow")
    return 0 if result.status == "completed" and not result.failed else 1


def _client(config: Path | None, url: str | None, key: str | None, say: Any) -> Client:
    """Return a client of the cluster that is meant."""
    if (config is None) == (url is None):
        raise _fail("give --config CLUSTER.YAML or --url URL, one of them")
    if url is not None:
        return Client([_way(url if "://" in url else f"http://{url}", key)], waiting=say)
    assert config is not None
    try:
        cluster = load(config, os.environ).config
    except ConfigError as error:
        raise _fail(str(error)) from None
    ways = []
    for node in cluster.nodes:
        state_dir = cluster.state_dir_of(node.name)
        socket = control_socket_of(state_dir) if running_process(state_dir) is not None else None
        if socket is not None and key is None:  # of this machine, and no key is needed there
            transport = httpx.HTTPTransport(uds=str(socket))
            ways.append(
                Way(node.name, httpx.Client(transport=transport, base_url="http://node", timeout=timeout()))
            )
    tls = cluster.gateway.tls is not None
    ways += [_way(base_url(node.host, node.port, tls=tls), key) for node in cluster.nodes]
    return Client(ways, waiting=say)


def _way(url: str, key: str | None) -> Way:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    client = httpx.Client(
        base_url=url.removesuffix("/").removesuffix("/v1"),
        headers=headers,
        timeout=timeout(),
        verify=verification(url),
    )
    return Way(url, client)


def _asked(ask: Any, config: Path | None, url: str | None, key: str | None) -> Any:
    try:
        return ask(_client(config, url, key, lambda text: typer.echo(text, err=True)))
    except RefusedError as error:
        raise _fail(str(error)) from None
    except NobodyAnswersError as error:
        typer.echo(f"shoal batch: {error}", err=True)
        raise typer.Exit(3) from None


def _fail(text: str) -> typer.Exit:
    typer.echo(f"shoal batch: {text}", err=True)
    return typer.Exit(2)
