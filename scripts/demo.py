"""The demo: three nodes on this machine, a question to each, then yours until Ctrl-C.

Runs in the environment of setup_env.py, with the model of get_model.py; `make demo` does all three.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from ruamel.yaml import YAML

import get_model
from lib import machine, ports
from lib.board import Board, Row, all_ready, hopeless, lost, rows
from lib.chat import ChatError, deltas, error_message
from lib.cluster import Cluster
from lib.progress import duration

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "examples" / "demo.yaml"
# Measured with this model and configuration: 2.4 GiB of an engine's own, 0.4 GiB shared by all, and a node.
ENGINE_MEMORY = 3 * machine.GIB
LOADING = 600.0  # seconds after which the demo no longer waits for engines
QUESTIONS = (
    "What is the capital of France?",
    "What is a computer cluster? Answer in one sentence.",
    "Write one sentence about the sea.",
)


class DemoError(Exception):
    """The demo cannot go on; the message is for people."""


def affordable(available: int, wanted: int) -> tuple[int, str]:
    """Return how many of `wanted` nodes to start with `available` bytes of memory, and what to say about it.

    Raises:
        DemoError: there is not enough for one.
    """
    fit = machine.engines_that_fit(available, ENGINE_MEMORY, wanted)
    each, have = ENGINE_MEMORY / machine.GIB, available / machine.GIB
    if fit == 0:
        raise DemoError(f"an engine needs about {each:.0f} GiB of memory, {have:.1f} GiB are free.")
    if fit < wanted:
        return fit, (
            f"Memory is short: {wanted} engines need about {each * wanted:.0f} GiB, {have:.1f} GiB are free. "
            f"Starting {fit} of {wanted} nodes."
        )
    return fit, ""


def write_config(source: Path, target: Path, count: int, first_port: int | None) -> list[str]:
    """Write `source` with its first `count` nodes, on other ports if `first_port` is given; return their names."""
    yaml = YAML()
    document: dict[str, Any] = yaml.load(source)
    del document["nodes"][count:]
    for index, node in enumerate(document["nodes"]):
        if first_port is not None:
            node["port"] = first_port + index
    with target.open("w") as out:
        yaml.dump(document, out)
    return [f"{n['host']}:{n['port']}" for n in document["nodes"]]


def check_ports(names: Sequence[str]) -> None:
    """Make sure that the nodes' ports are free.

    Raises:
        DemoError: one is not.
    """
    problems = []
    for name in names:
        host, _, port = name.rpartition(":")
        if reason := ports.taken(host, int(port)):
            problems.append(f"port {port} {reason}")
    if problems:
        raise DemoError("; ".join(problems) + ".\nStop that, or use other ports: make demo PORT=9000")


def fetch_status(client: httpx.Client, names: Sequence[str]) -> dict[str, Any]:
    """Return the status document of the first node that answers, {} when none does."""
    for name in names:
        try:
            reply = client.get(f"http://{name}/shoal/v1/status", timeout=3)
            if reply.status_code == 200:
                found: dict[str, Any] = reply.json()
                return found
        except (httpx.HTTPError, ValueError):
            continue
    return {}


def is_healthy(client: httpx.Client, name: str) -> bool:
    """Return whether the node routes to a ready engine."""
    try:
        return client.get(f"http://{name}/health", timeout=3).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until_ready(cluster: Cluster, client: httpx.Client, names: Sequence[str], console: Console) -> None:
    """Show how nodes and engines come up until all are ready.

    Raises:
        DemoError: a node ended, an engine does not start, or it takes too long.
    """
    start = time.monotonic()
    with Board(console) as board:
        while True:
            if cluster.ended():
                raise DemoError(f"the nodes ended. Their last words:\n{cluster.last_lines()}")
            current, elapsed = rows(names, fetch_status(client, names)), time.monotonic() - start
            board.show(current, elapsed)
            if all_ready(current) and all(is_healthy(client, n) for n in names):
                return
            if (row := hopeless(current)) is not None:
                raise DemoError(f"{_engine(row)} does not start.\n{_reasons(row)}")
            if (row := lost(current, elapsed)) is not None:
                raise DemoError(
                    f"node {row.node} did not start, or died. Last words:\n{cluster.last_lines()}"
                )
            if elapsed > LOADING:
                late = next((r for r in current if r.state != "ready"), current[0])
                waited = duration(elapsed)
                raise DemoError(
                    f"not ready after {waited}: {_engine(late)} is {late.state}.\n{_reasons(late)}"
                )
            time.sleep(0.5)


def _engine(row: Row) -> str:
    return f"engine {row.node}/{row.engine}" if row.engine else f"node {row.node}"


def _reasons(row: Row) -> str:
    return "\n".join([row.detail, *row.errors])


def ask(client: httpx.Client, name: str, model: str, question: str, console: Console) -> bool:
    """Ask a node a question through the OpenAI API and print the answer as it comes; return whether there was one."""
    console.print(f"\n[bold]{name}[/bold]  {escape(question)}")
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 64,
        "temperature": 0,
        "stream": True,
    }
    start, first, pieces = time.monotonic(), 0.0, 0
    try:
        with client.stream("POST", f"http://{name}/v1/chat/completions", json=body, timeout=120) as reply:
            if reply.status_code != 200:
                raise ChatError(
                    f"status {reply.status_code}: {error_message(reply.read().decode(errors='replace'))}"
                )
            engine = reply.headers.get("x-shoal-engine", "an engine that does not say its name")
            for text in deltas(reply.iter_lines()):
                first = first or time.monotonic() - start
                pieces += 1
                sys.stdout.write(text if pieces > 1 else f"  {text.lstrip()}")
                sys.stdout.flush()
            if not pieces:
                raise ChatError("an empty answer")
    except (httpx.HTTPError, ValueError, ChatError) as error:
        console.print(f"\n  [red]no answer:[/red] {escape(str(error) or type(error).__name__)}")
        return False
    took = time.monotonic() - start
    console.print(
        f"\n  [dim]answered by {engine}: first words after {first:.2f} s, {took:.2f} s in all[/dim]"
    )
    return True


def farewell(names: Sequence[str], model: str, cluster: Cluster, console: Console) -> None:
    """Say how to talk to the cluster."""
    shoal = Path(sys.executable).parent / "shoal"
    if shoal.is_relative_to(Path.cwd()):
        shoal = shoal.relative_to(Path.cwd())
    message = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    engine = cluster.engine_process()
    lines = [
        "",
        "[bold]The cluster is yours until Ctrl-C.[/bold] Any port serves the whole of it. In another terminal:",
        "",
        f"  curl http://{names[-1]}/v1/chat/completions -H 'Content-Type: application/json' \\",
        f"    -d '{escape(message)}'",
        "",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="http://{names[0]}/v1", api_key="none")',
        "",
        f"  {shoal} status {names[0]} --watch",
    ]
    if engine is not None:
        lines += ["", f"  kill -9 {engine}     the end of an engine: ask again, and see what happens below"]
    lines += ["", f"[dim]The nodes' log ({cluster.log}):[/dim]"]
    for line in lines:
        console.print(line)


def stay(cluster: Cluster) -> None:
    """Show the nodes' log from now on.

    Raises:
        DemoError: the nodes ended by themselves.
    """
    cluster.new_output()  # what has been said so far was about starting
    while not cluster.ended():
        sys.stdout.write(cluster.new_output())
        sys.stdout.flush()
        time.sleep(0.3)
    raise DemoError(f"the nodes ended by themselves. Their last words:\n{cluster.last_lines()}")


def prepare(options: argparse.Namespace, directory: Path, console: Console) -> tuple[Path, list[str]]:
    """Check model, memory and ports; return the configuration to use and the names of its nodes.

    Raises:
        DemoError: something is missing.
    """
    if not get_model.is_there(options.model):
        raise DemoError(
            f"there is no model at {options.model}. `make demo` gets it, or scripts/get_model.py."
        )
    wanted = len(YAML(typ="safe").load(CONFIG)["nodes"])
    count = options.nodes or wanted
    if options.nodes is None:
        count, remark = affordable(machine.available_memory(), wanted)
        if remark:
            console.print(f"[yellow]{remark}[/yellow]")
    reduced = directory / "demo.yaml"
    names = write_config(CONFIG, reduced, count, options.port)
    try:
        check_ports(names)
    except DemoError:
        reduced.unlink()  # nothing ran: nothing to keep
        raise
    return CONFIG if count == wanted and options.port is None else reduced, names


def run(options: argparse.Namespace, directory: Path, console: Console) -> int:
    """Run the demo; return its exit status.

    Raises:
        DemoError: it cannot go on.
    """
    config, names = prepare(options, directory, console)
    shown = config.relative_to(ROOT) if config == CONFIG else config
    console.print(
        f"Starting {len(names)} node{'s' * (len(names) > 1)} from {shown}, each with its own vLLM engine."
    )
    console.print("[dim]Loading takes about half a minute per engine on a small machine.[/dim]")
    cluster = Cluster(config, directory, {"SHOAL_DEMO_MODEL": str(options.model)})
    # No proxy of the environment's: everything is on this machine.
    with httpx.Client(trust_env=False) as client:
        try:
            wait_until_ready(cluster, client, names, console)
            model = options.model.name
            answers = [ask(client, n, model, q, console) for n, q in zip(names, QUESTIONS, strict=False)]
            if options.once:
                console.print(f"\n{sum(answers)} of {len(names)} nodes answered.")
                return 0 if all(answers) else 1
            farewell(names, model, cluster, console)
            with contextlib.suppress(KeyboardInterrupt):  # the way it is meant to end
                stay(cluster)
            return 0
        finally:
            if not cluster.ended():
                console.print("\nStopping the nodes (Ctrl-C again: at once) ...")
            cluster.stop()


def interrupt(*_: object) -> None:
    """Treat SIGTERM and a closed terminal like Ctrl-C."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description="Three Shoal nodes with a small model on this machine.")
    parser.add_argument(
        "--once", action="store_true", help="stop after the answers; status 1 if one is missing"
    )
    parser.add_argument("--port", type=int, help="first of the ports, 8000 otherwise")
    parser.add_argument("--nodes", type=int, help="how many nodes; default: three, or what memory allows")
    parser.add_argument("--model", type=Path, default=get_model.default_path(), help="default: %(default)s")
    options = parser.parse_args()
    options.model = options.model.expanduser().absolute()
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    console = Console(highlight=False, soft_wrap=True)
    directory = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    status = 1
    try:
        status = run(options, directory, console)
    except DemoError as error:
        console.print(f"\n[red]The demo stopped:[/red] {escape(str(error))}")
    except KeyboardInterrupt:
        status = 130
    if status == 1 and any(directory.iterdir()):
        console.print(f"[dim]Logs and state: {directory}[/dim]")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
