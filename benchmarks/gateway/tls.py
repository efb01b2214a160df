"""What mutual TLS to the engines costs a gateway: `make bench-tls`, or ``python -m benchmarks.gateway.tls --help``.

nginx and a gateway worker of Shoal, each with plain HTTP to the engines and with mutual TLS. The fake engines know no
TLS: another nginx stands in front of them, in both cases, and demands the cluster's certificate in one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console

import shoal
from benchmarks.gateway import handshake, machine
from benchmarks.gateway.__main__ import DOCUMENT, OUTPUT, ROOT, interrupt
from benchmarks.gateway.document import replace_results
from benchmarks.gateway.handshake import Cost
from benchmarks.gateway.install import UnavailableError, cache_folder, compiled, debian
from benchmarks.gateway.load import API_KEY, Load, LoadError
from benchmarks.gateway.measure import FULL, QUICK, Bench, Plan, Subject, take
from benchmarks.gateway.peers import Kind, Site, nginx
from benchmarks.gateway.processes import Command, Running
from benchmarks.gateway.report import disturbance, machine_sentence, samples_sentence
from benchmarks.gateway.results import (
    CPU_EVENT,
    CPU_LARGE,
    CPU_REQUEST,
    CPU_UNPACED,
    MEMORY_STREAMS,
    P50,
    TTFT,
    Metric,
    Row,
    number,
)
from benchmarks.gateway.run import BenchError, Progress, alone, free_ports, start_engines, wait_until_up
from benchmarks.gateway.tls_worker import Given
from lib.progress import Steps
from shoal.cluster.pki import SERVER_NAME, Authority
from shoal.gateway.messages import Credentials

COLUMNS = (CPU_REQUEST, CPU_LARGE, CPU_EVENT, CPU_UNPACED, P50, TTFT, MEMORY_STREAMS)
_PATIENCE = 60.0
_PLAIN, _TLS = "plain HTTP", "mutual TLS"


def credentials(folder: Path) -> Credentials:
    """Write a node's certificate, as every node derives it."""
    authority = Authority("bench", "a secret of this benchmark")
    pair = authority.issue("bench")
    files = {"ca.pem": authority.certificate, "node.pem": pair.certificate, "node.key": pair.key}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    ca, certificate, key = (str(folder / name) for name in files)
    return Credentials(ca=ca, certificate=certificate, key=key, server_name=SERVER_NAME)


def terminator(
    program: Path, folder: Path, engines: Sequence[int], ports: Sequence[int], given: Credentials
) -> Command:
    """Return what stands in front of the engines: a plain port for each, and one for each with TLS."""
    demanding = (
        f"ssl_certificate {given.certificate}; ssl_certificate_key {given.key}; ssl_protocols TLSv1.3; "
        f"ssl_client_certificate {given.ca}; ssl_verify_client on;"
    )
    blocks = []
    for i, engine in enumerate(engines):
        blocks.append(
            f"upstream e{i} {{ server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 1000000000; }}"
        )
        for port, kind, tls in ((ports[2 * i], "", ""), (ports[2 * i + 1], "ssl", demanding)):
            listen = f"listen 127.0.0.1:{port} {kind} backlog=4096; {tls}"
            blocks.append(f"server {{ {listen} location / {{ proxy_pass http://e{i}; }} }}")
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    text = f"""\
{user} worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; {temporary}
  keepalive_requests 1000000000; client_max_body_size 64m; client_body_buffer_size 1m;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 3600;
  {" ".join(blocks)}
}}
"""
    file = folder / "nginx.conf"
    file.write_text(text)
    return Command([str(program), "-p", str(folder), "-e", "stderr", "-c", str(file)])


def nginx_with_tls(site: Site, given: Credentials) -> Command:
    """Return nginx as a router that shows its certificate, checks the engine's, keeps connections and sessions."""
    command = nginx(site)
    file = Path(command.arguments[-1])
    tls = " ".join(
        (
            "proxy_pass https://engines;",
            f"proxy_ssl_certificate {given.certificate}; proxy_ssl_certificate_key {given.key};",
            f"proxy_ssl_trusted_certificate {given.ca}; proxy_ssl_verify on; proxy_ssl_protocols TLSv1.3;",
            f"proxy_ssl_name {given.server_name}; proxy_ssl_server_name on;",
        )
    )
    file.write_text(file.read_text().replace("proxy_pass http://engines;", tls))
    return command


def worker(
    port: int, engines: Sequence[int], given: Credentials | None = None, keepalive: int = 256
) -> Command:
    """Return a gateway worker of Shoal."""
    told = Given(port=port, engines=list(engines), keepalive=keepalive, credentials=given)
    words = [sys.executable, "-m", "benchmarks.gateway.tls_worker", msgspec.json.encode(told).decode()]
    path = os.pathsep.join([str(ROOT), str(ROOT / "scripts"), str(Path(shoal.__file__).parents[1])])
    return Command(words, {"PYTHONPATH": path})


def run(plan: Plan, console: Console) -> dict[str, Any]:
    """Measure; return the rows, what connections cost, and the document about them.

    Raises:
        BenchError: it cannot be measured here.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cache = cache_folder()
    placement = machine.place(sorted(os.sched_getaffinity(0)))
    with alone(cache), contextlib.ExitStack() as stack:
        with (cache / "install.log").open("a") as log, Steps(1).step("engine, load generator, nginx") as step:
            try:
                engine, load = compiled("engine", cache, log), compiled("load", cache, log)
                found = debian("nginx", "-v")(cache, log, step)
            except UnavailableError as error:
                raise BenchError(str(error)) from error
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        status = stack.enter_context(Progress(console))
        status.say("starting everything")
        given = credentials(directory)
        shakes = handshake.measure(given)

        def start(name: str, command: Command, cores: Sequence[int]) -> Running:
            folder = directory / f"run-{name.replace(' ', '-').replace(',', '')}"
            folder.mkdir()
            running = Running(name, command, cores, folder)
            stack.callback(running.stop)
            return running

        engines = start_engines(engine, placement, directory, stack)
        fronts = free_ports(4)
        front = directory / "front"
        front.mkdir()
        start("front", terminator(found.path, front, engines, fronts, given), placement.engines[0])
        ends = {_PLAIN: fronts[::2], _TLS: fronts[1::2]}
        generator = Load(load, placement.load)
        subjects = []
        for kind in (_PLAIN, _TLS):
            port, spare, bare = free_ports(3)
            folder = directory / f"nginx {kind}".replace(" ", "-")
            folder.mkdir()
            site = Site(found.path, folder, port, spare, ends[kind])
            tls = given if kind == _TLS else None
            commands = {
                f"nginx, {kind}": (port, nginx_with_tls(site, given) if tls else nginx(site)),
                f"shoal, {kind}": (spare, worker(spare, ends[kind], tls)),
                f"shoal, {kind}, nothing kept": (bare, worker(bare, ends[kind], tls, keepalive=0)),
            }
            for name, (where, command) in commands.items():
                row = Row(name, Kind.PROXY if name.startswith("nginx") else Kind.PART)
                alone_row = None if name.startswith("nginx") else Row(name, Kind.PART)
                subjects.append(
                    Subject(row, where, start(name, command, placement.router), generator, alone_row)
                )
        with httpx.Client(
            headers={"authorization": f"Bearer {API_KEY}"}, timeout=5, trust_env=False
        ) as client:
            begun = time.monotonic()
            for subject in subjects:
                if not wait_until_up(subject, client, begun, _PATIENCE):
                    raise BenchError(f"{subject.row.name}: {'; '.join(subject.row.problems)}")
        kept = [s for s in subjects if not s.row.name.endswith("kept")]
        bench = Bench(plan, directory, status.say)
        bench.run(kept)
        measure_connections(bench, [s for s in subjects if s not in kept], plan.repeats * plan.slices, status)
        status.say("ending everything")
    for subject in subjects:
        if subject.worker is not None:
            subject.row.samples |= subject.worker.samples
    return {
        "rows": [subject.row for subject in subjects],
        "shakes": shakes,
        "nginx": found.version,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe() | {"placement": placement.sentence},
        "repeats": plan.repeats,
        "slices": plan.slices,
        "others": sum(bench.others) / max(1, len(bench.others)),
    }


def measure_connections(bench: Bench, subjects: Sequence[Subject], repeats: int, status: Progress) -> None:
    """Measure requests that each take a new connection to an engine."""
    work = bench.works()[0]
    for subject in subjects:
        status.say(f"connections: {subject.row.name}")
        take(subject, work)  # gets its tickets
        for _ in range(repeats):
            try:
                sample = take(subject, work)
            except LoadError as error:
                subject.row.problem(str(error))
                break
            if sample is not None:
                subject.row.add(sample.values)
                assert subject.worker is not None
                subject.worker.add(sample.worker)


def markdown(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = {row.name: row for row in results["rows"]}
    titles = [metric.title.replace("\n", ", ") for metric in COLUMNS]
    lines = [
        f"Measured {results['date']} on: {machine_sentence(results['machine'])}. Shoal {shoal.__version__} (one "
        f"gateway worker), nginx {results['nginx']}. {samples_sentence(results)}.",
        "",
        f"| | {' | '.join(titles)} |",
        f"|---|{'---:|' * len(titles)}",
    ]
    for who in ("nginx", "shoal"):
        plain, tls = rows[f"{who}, {_PLAIN}"], rows[f"{who}, {_TLS}"]
        lines += [f"| {r.name} | {' | '.join(_cell(r.median(m)) for m in COLUMNS)} |" for r in (plain, tls)]
        lines.append(f"| {who}, **added** | {' | '.join(_added(plain, tls, m) for m in COLUMNS)} |")
    whole, resumed = results["shakes"]
    lines += ["", "| CPU µs of a new connection to an engine | gateway | engine |", "|---|---:|---:|"]
    lines += [_shake_line("a whole handshake", whole), _shake_line("one that resumes a session", resumed)]
    for kind in (_PLAIN, _TLS):
        kept, bare = rows[f"shoal, {kind}"], rows[f"shoal, {kind}, nothing kept"]
        lines.append(
            f"| request on a new one, over one on a connection kept: {kind} | {_added(kept, bare, CPU_REQUEST)} | - |"
        )
    problems = [f"- {row.name}: {problem}" for row in results["rows"] for problem in row.problems]
    if problems:
        lines += ["", "Remarks of this run:", "", *problems]
    if (warning := disturbance(results["others"])) is not None:
        lines += ["", warning]
    return "\n".join(lines) + "\n"


def _shake_line(what: str, cost: Cost) -> str:
    return f"| {what} | {number(cost.client)} | {number(cost.server)} |"


def _cell(value: float | None) -> str:
    return "-" if value is None else number(value)


def _added(base: Row, row: Row, metric: Metric) -> str:
    before, after = base.median(metric), row.median(metric)
    return "-" if before is None or after is None else f"{after - before:+.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway.tls", description="Measure mutual TLS to the engines."
    )
    parser.add_argument("--quick", action="store_true", help="shorter loads")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/performance.md")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    console = Console(highlight=False, soft_wrap=True)
    try:
        results = run(QUICK if options.quick else FULL, console)
    except BenchError as error:
        console.print(f"The benchmark stopped: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    text = markdown(results)
    console.print(text, markup=False)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    rows = [row.as_json() for row in results["rows"]]
    (OUTPUT / "tls.json").write_text(json.dumps({"rows": rows, "text": text}, indent=1))
    if options.docs:
        DOCUMENT.write_text(replace_results(DOCUMENT.read_text(), text, "tls"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
