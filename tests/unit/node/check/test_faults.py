"""Planted faults: `shoal check` finds each one and names the fix. The other node is a real one that answers checks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.config import load
from shoal.engine.machine import Machine
from shoal.node import hardware
from shoal.node.check import compare, here
from shoal.node.check.facts import Facts, facts_of, models_of
from shoal.node.check.findings import Level
from shoal.node.check.responder import Link, Responder, Results
from support.models import SHAPES
from support.ports import free_ports

SECRET = "a secret of sixteen"


class Peer:
    """The other node's check: answers from a thread of its own until `stop`."""

    def __init__(
        self,
        file: Path,
        name: str,
        *,
        secret: str = SECRET,
        facts: dict[str, Any] | None = None,
        versions: dict[str, str] | None = None,
        ahead: float = 0.0,
        deaf: bool = False,
        loses: int = 0,
        results: Results | None = None,
        engine_port: int | None = None,
        hashed: bool = True,
    ) -> None:
        config = load(file, {"SHOAL_SECRET": SECRET}).config
        node = config.node(name)
        assert node is not None
        port = free_ports(1)[0] if engine_port is None else engine_port
        known = facts_of(config, node)
        changes = {"versions": known.versions | (versions or {}), "engine_port": port, **(facts or {})}
        self.facts: Facts = msgspec.structs.replace(known, **changes)
        models = models_of(config, node, hashed=hashed)

        async def those() -> Any:
            return models

        self.responder = Responder(
            config.cluster.name, secret, self.facts, those, clock=lambda: time.time() + ahead, deaf=deaf
        )
        self.responder.results = results or Results(done=True)
        if loses:
            heard, answer = itertools.count(1), self.responder.datagram_received

            def some(data: bytes, addr: tuple[str | Any, int]) -> None:
                if next(heard) % loses:
                    answer(data, addr)

            self.responder.datagram_received = some  # type: ignore[method-assign]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        open_port = port if engine_port is None else 0
        self._call(self.responder.start(node.host, node.port, open_port))

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def stop(self) -> None:
        async def end() -> None:
            self.responder.stop()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Stage:
    """Two nodes on loopback, one of which is checked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = free_ports(2)
        self.names = [f"127.0.0.1:{port}" for port in self.ports]
        self.model = directory / "model"
        self.peers: list[Peer] = []

    def file(self, name: str = "c.yaml", **changes: Any) -> Path:
        config = {
            "nodes": [{"host": "127.0.0.1", "port": port} for port in self.ports],
            "model": {"path": "sim-model", "engine": "sim"},
            "cluster": {"secret": SECRET},
            "state_dir": str(self.directory / "state"),
        } | changes
        path = self.directory / name
        path.write_text(json.dumps(config))
        return path

    def with_model(self, source: str = "SmolLM2-1.7B") -> dict[str, Any]:
        """Make a model's directory; return what a file says of it."""
        if not self.model.exists():
            shutil.copytree(SHAPES / source, self.model)
            (self.model / "weights.bin").write_bytes(bytes(100_000))
        return {"model": {"path": str(self.model), "name": "m"}}

    def peer(self, file: Path | None = None, **faults: Any) -> Peer:
        self.peers.append(Peer(file or self.file(), self.names[1], **faults))
        return self.peers[-1]

    def check(self, file: Path | None = None, *options: str, wait: float = 0.2) -> Said:
        arguments = ["check", str(file or self.file()), "--json", "--wait", str(wait)]
        if "--node" not in options:
            options = (*options, "--node", self.names[0])
        done = CliRunner(env={"SHOAL_SECRET": None, "HF_HUB_CACHE": "/nowhere"}).invoke(
            app, [*arguments, *options]
        )
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return Said(done.exit_code, json.loads(done.stdout))


class Said(NamedTuple):
    """What a check said."""

    status: int
    document: dict[str, Any]

    def bad(self) -> list[tuple[str, str, str, str]]:
        """Return (level, check, text, fix) of all that is not as it should be."""
        return [
            (f["level"], f["check"], f["text"], f["fix"])
            for f in self.document["findings"]
            if f["level"] != Level.OK
        ]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    for peer in stage.peers:
        peer.stop()


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test depend on how much memory and disk the machine has that it runs on."""
    monkeypatch.setattr(here, "MIN_MEMORY", 1)
    monkeypatch.setattr(here, "MIN_DISK", 1)
    monkeypatch.setattr(compare, "SLOW", 0.001)
    monkeypatch.setattr(hardware, "this_machine", lambda: Machine(cores=8, memory=64 << 30))


@contextlib.contextmanager
def taken(port: int, kind: socket.SocketKind) -> Iterator[None]:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", port))
        if kind is socket.SOCK_STREAM:
            sock.listen()
        yield


def test_without_a_fault_all_is_well(stage: Stage):
    file = stage.file(**stage.with_model())
    stage.peer(file)
    said = stage.check(file)
    assert said.bad() == []
    text = json.dumps(said.document)
    for expected in (
        "TCP and UDP port",
        " ms, UDP ",
        "Mbit/s",
        "model m is the same",
        "same versions",
        "differs by",
    ):
        assert expected in text, expected


def plant_taken_tcp(stage: Stage) -> Said:
    with taken(stage.ports[0], socket.SOCK_STREAM):
        return stage.check()


def plant_taken_udp(stage: Stage) -> Said:
    with taken(stage.ports[0], socket.SOCK_DGRAM):
        return stage.check()


def plant_no_engine_port(stage: Stage) -> Said:
    port = free_ports(1)[0]
    with taken(port, socket.SOCK_STREAM):
        return stage.check(stage.file(engines={"ports": [port, port]}), "--alone")


def plant_other_program(stage: Stage) -> Said:
    with taken(stage.ports[1], socket.SOCK_STREAM):
        return stage.check()


def plant_one_byte(stage: Stage) -> Said:
    file = stage.file(**stage.with_model())
    stage.peer(file)
    with (stage.model / "weights.bin").open("r+b") as weights:
        weights.seek(77_777)
        weights.write(b"\x01")
    return stage.check(file)


def plant_missing_model(stage: Stage) -> Said:
    return stage.check(stage.file(model={"path": str(stage.model), "name": "m"}), "--alone")


def plant_too_large(stage: Stage) -> Said:
    return stage.check(stage.file(**stage.with_model("Llama-3.3-70B")), "--alone")


def plant_config(stage: Stage) -> Said:
    stage.peer(stage.file("other.yaml", routing={"policy": "round_robin"}))
    return stage.check()


def plant_little_memory(stage: Stage) -> Said:
    here.MIN_MEMORY = 1 << 60
    return stage.check(None, "--alone")


def plant_little_disk(stage: Stage) -> Said:
    here.MIN_DISK = 1 << 60
    return stage.check(None, "--alone")


def between_others(**found: Any) -> Callable[[Stage], Said]:
    """Have the other node tell what it has found on its way to a third one."""

    def plant(stage: Stage) -> Said:
        link = Link(source=stage.names[1], target="127.0.0.1:9", **found)
        stage.peer(results=Results(done=True, links=(link,)))
        return stage.check(wait=2)

    return plant


def plant_lost_datagrams(stage: Stage) -> Said:
    stage.peer(loses=5)
    return stage.check()


def plant_slow_link(stage: Stage) -> Said:
    compare.SLOW = 1e9  # no link is as fast
    stage.peer()
    return stage.check()


def plant_two_nodes_here(stage: Stage) -> Said:
    done = CliRunner(env={"SHOAL_SECRET": None}).invoke(
        app, ["check", str(stage.file()), "--json", "--alone"]
    )
    return Said(done.exit_code, json.loads(done.stdout))


def plant_no_secret(stage: Stage) -> Said:
    nodes = [{"host": "127.0.0.1", "port": stage.ports[0]}, {"host": "192.0.2.1", "port": 8000}]
    return stage.check(stage.file(nodes=nodes, cluster={}), "--alone")


def plant_no_state_dir(stage: Stage) -> Said:
    (stage.directory / "file").touch()
    return stage.check(stage.file(state_dir=str(stage.directory / "file/state")), "--alone")


def plant_trial(stage: Stage) -> Said:
    bad = {"path": "sim-model", "engine": "sim", "args": {"load-time": "never"}}
    return stage.check(stage.file(model=bad), "--alone", "--trial")


def peer_with(**faults: Any) -> Callable[[Stage], Said]:
    def plant(stage: Stage) -> Said:
        stage.peer(**faults)
        return stage.check()

    return plant


FAULTS: dict[str, tuple[Callable[[Stage], Said], str, str, str, str]] = {
    "a mistake in the file": (
        lambda s: s.check(s.file(routing={"policy": 7})), "error", "config", "routing.policy", "correct the file",
    ),
    "this machine is not in it": (
        lambda s: s.check(None, "--node", "10.9.9.9:8000"), "error", "node", "no such node", "It names",
    ),
    "two of its nodes are this machine": (
        plant_two_nodes_here, "error", "node", "several nodes of the file are on this machine", "--node HOST:PORT",
    ),
    "machines without a secret": (
        plant_no_secret, "error", "secret", "nodes on several machines need a secret", "openssl rand -hex 32",
    ),
    "a host that has no address": (
        lambda s: s.check(s.file(nodes=[
            {"host": "127.0.0.1", "port": s.ports[0]}, {"host": "nobody.invalid", "port": 8000},
        ])),
        "error", "names", "nobody.invalid stands for no address", "correct `host`",
    ),
    "the TCP port is taken": (plant_taken_tcp, "error", "ports", "the port is taken", "another `port`"),
    "the UDP port is taken": (plant_taken_udp, "error", "ports", "UDP port", "another `port`"),
    "no port for engines": (plant_no_engine_port, "error", "ports", "for engines is free", "`engines.ports`"),
    "the other node is away": (
        lambda s: s.check(), "error", "network", "connection refused", "run `shoal check FILE` there",
    ),
    "another program has its port": (
        plant_other_program, "error", "network", "something else listens", "another `port`",
    ),
    "another secret": (
        peer_with(secret="another secret of 16"), "error", "network", "cluster.secret", "the same `cluster.secret`",
    ),
    "UDP is blocked": (peer_with(deaf=True), "error", "network", "not over UDP", "open UDP port"),
    "engine ports are blocked": (
        peer_with(engine_port=1), "error", "network", "ports for engines", "open the TCP ports of `engines.ports`",
    ),
    "datagrams get lost": (plant_lost_datagrams, "warning", "network", "20% of the datagrams", "look at the network"),
    "a slow link": (plant_slow_link, "warning", "network", "Mbit/s to", "look at the link"),
    "a pair of others does not reach each other": (
        between_others(problem="connection refused"),
        "error", "network", "does not reach 127.0.0.1:9", "see what `shoal check` says on",
    ),
    "UDP is blocked between others": (
        between_others(tcp=1.0), "error", "network", "does not reach 127.0.0.1:9 over UDP", "`shoal check` says on",
    ),
    "engine ports are blocked between others": (
        between_others(tcp=1.0, udp=1.0, engine=False),
        "error", "network", "ports for engines of 127.0.0.1:9", "`shoal check` says on",
    ),
    "datagrams get lost between others": (
        between_others(tcp=1.0, udp=1.0, lost=0.3),
        "warning", "network", "30% of the datagrams", "`shoal check` says on",
    ),
    "a slow link between others": (
        between_others(tcp=1.0, udp=1.0, mbit=0.0005), "warning", "network", "Mbit/s from", "`shoal check` says on",
    ),
    "the clock is two minutes ahead": (
        peer_with(ahead=120.0), "error", "clock", "120.0 s ahead", "timedatectl set-ntp true",
    ),
    "the clock is two seconds behind": (
        peer_with(ahead=-2.0), "warning", "clock", "2.0 s behind", "timedatectl set-ntp true",
    ),
    "another Shoal": (
        peer_with(versions={"version": "0.0.9"}), "error", "version", "has Shoal 0.0.9", "pip install 'shoal==",
    ),
    "another vLLM": (
        peer_with(versions={"vllm": "0.31.0"}), "error", "version", "has vLLM 0.31.0", "pip install 'vllm==",
    ),
    "another PyTorch": (
        peer_with(versions={"torch": "2.0.1"}), "error", "version", "has PyTorch 2.0.1", "pip install 'torch==",
    ),
    "another NVIDIA driver": (
        peer_with(versions={"driver": "1.2"}), "warning", "version", "has NVIDIA driver 1.2", "the same version on all",
    ),
    "another CUDA": (
        peer_with(versions={"cuda": "11.8"}), "warning", "version", "has CUDA 11.8", "the same version on all nodes",
    ),
    "another configuration": (plant_config, "error", "config", "another configuration", "copy one file"),
    "a model that is not there": (plant_missing_model, "error", "model", "does not exist", "rsync -a"),
    "a model that differs in one byte": (plant_one_byte, "error", "model", "weights.bin", "rsync -ac"),
    "a model that does not fit": (plant_too_large, "error", "fit", "model m needs", "a machine with"),
    "little memory": (plant_little_memory, "warning", "memory", "of memory", "smaller or quantised"),
    "little room on the disk": (plant_little_disk, "warning", "disk", "are free", "make room"),
    "a directory that cannot be written": (plant_no_state_dir, "error", "disk", "cannot be written", "`state_dir`"),
    "an engine that does not start": (plant_trial, "error", "trial", "sim-model", "plan FILE"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_its_fix_is_named(stage: Stage, name: str):
    plant, level, check, text, fix = FAULTS[name]
    said = plant(stage)
    found = [f for f in said.bad() if f[1] == check]
    assert any(f[0] == level and text in f[2] and fix in f[3] and f[3] for f in found), said.bad()
    assert said.status == (2 if name == "a mistake in the file" else 1 if level == "error" else 0)
    assert said.document["result"] == level
    others = {f[1] for f in said.bad()} - {check}
    assert others <= {"network"} and (not others or level == "error"), said.bad()
