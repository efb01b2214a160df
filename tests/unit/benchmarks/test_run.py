"""Starting engines and targets: what does not get its port gets another one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.gateway.install import Installed
from benchmarks.gateway.machine import Placement
from benchmarks.gateway.peers import Kind, Site, Target
from benchmarks.gateway.processes import Command
from benchmarks.gateway.results import Row
from benchmarks.gateway.run import BenchError, Programs, Stage, free_ports, start_engine, start_targets

from shoal.config.engines import Engines

CORES = tuple(sorted(os.sched_getaffinity(0))[:1])
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"choices":[]}')
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        programs = Programs(Path(), Path(), {"x": Installed(Path(sys.executable), "1")})
        yield Stage(programs, Placement(CORES, (), (CORES, CORES), CORES), [1, 2], tmp_path, stack)


def target(failures: int, ports: list[int]) -> Target:
    """Return a target that ends by itself so many times, and then answers."""

    def command(site: Site) -> Command:
        ports.append(site.port)
        code = "raise SystemExit('no port')" if len(ports) <= failures else SERVER
        return Command([str(site.program), "-c", code, str(site.port)])

    return Target("x", Kind.PROXY, None, command)


def test_a_target_that_ends_at_once_is_started_again_on_another_port(stage):
    ports: list[int] = []
    row = Row("x", Kind.PROXY)
    (subject,) = start_targets([target(2, ports)], {"x": row}, stage)
    assert subject.port == ports[-1]
    assert len(set(ports)) == 3
    assert row.problems == []


def test_a_target_that_always_ends_is_left_out_and_says_why(stage):
    row = Row("x", Kind.PROXY)
    assert start_targets([target(99, [])], {"x": row}, stage) == []
    (problem,) = row.problems
    assert "no port" in problem


def test_an_engine_that_does_not_start_stops_the_benchmark(tmp_path):
    with contextlib.ExitStack() as stack, pytest.raises(BenchError, match="does not start"):
        start_engine(Path("/bin/false"), CORES, tmp_path, stack)


def test_ports_are_none_of_those_that_shoal_gives_to_its_engines():
    first, last = Engines().ports
    assert not [port for port in free_ports(500) if first <= port <= last]
