"""What a person sees of a cluster from a terminal: logs, and what became of a request."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import DataTable
from typer.testing import CliRunner

from shoal.cli.asked import Asked
from shoal.cli.main import app
from shoal.cli.top import ClusterSource
from shoal.cli.top_app import Top
from support.cluster import Cluster
from support.wait import wait_until

Make = Callable[..., Cluster]

pytestmark = pytest.mark.timeout(300)


def shoal(*arguments: str | Path, **env: str) -> Any:
    """Run the `shoal` command, in this process: a start takes seconds where the machine has other things to do."""
    return CliRunner(env=env).invoke(app, [*map(str, arguments)])


def started(cluster: Cluster) -> Cluster:
    """Start all nodes, and give them time: they are not what is tested here."""
    for index in range(len(cluster.ports)):
        cluster.start_node(index)
    cluster.wait_ready(deadline=100)
    return cluster


def test_logs_of_every_engine_and_node_are_told_by_any_node_and_followed(make_cluster: Make):
    cluster = started(make_cluster(2, cluster={"secret": "long enough to be a secret of a cluster"}))
    first, second = cluster.names
    (engine,) = [e for e in cluster.ready_engines(0) if e.startswith(second)]
    done = shoal("logs", engine, "-c", cluster.path, "--at", first, "-n", "500")
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"shoal: starting engine {engine.partition('/')[2]}" in done.stdout
    done = shoal("logs", second, "-c", cluster.path, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(line["node"], line["of"]) for line in lines} == {(second, second)}
    assert any(f"node {second} is up" in line["line"] for line in lines)
    # Both nodes have an engine of this name; and logs are for those who know the secret.
    unclear = shoal("logs", engine.partition("/")[2], "-c", cluster.path)
    assert (unclear.exit_code, engine in unclear.stderr) == (1, True)
    assert shoal("logs", engine, "--at", first, SHOAL_SECRET="").exit_code == 1
    assert (
        shoal("logs", engine, "--at", first, SHOAL_SECRET=cluster.config["cluster"]["secret"]).exit_code == 0
    )
    assert cluster.http.get(cluster.url(0, f"/shoal/v1/logs?of={engine}")).status_code == 401

    out = cluster.directory / "followed"
    with out.open("w") as file:
        following = subprocess.Popen(
            [sys.executable, "-m", "shoal", "logs", engine, "-c", str(cluster.path), "-f", "-n", "5"],
            stdout=file,
        )
    try:
        wait_until(lambda: out.read_text().count("\n"), 30, "the last lines")
        before = out.read_text().count("shoal: starting engine")
        cluster.kill_engine(1)
        wait_until(lambda: out.read_text().count("shoal: starting engine") > before, 30, "the next start")
    finally:
        following.terminate()
        following.wait()


def test_what_became_of_a_request_is_told_by_any_node(make_cluster: Make):
    model = {"path": "sim-model", "engine": "sim", "args": {"decode-ms": 20}}
    cluster = started(make_cluster(2, model=model, routing={"policy": "least_connections"}))
    named = cluster.http.post(
        cluster.url(0, "/v1/completions"),
        json={"model": "sim-model", "prompt": "x", "max_tokens": 4},
        headers={"x-request-id": "Ticket-4711"},
    )
    assert named.headers["x-request-id"] == "Ticket-4711"
    for asked in ("Ticket-4711", named.json()["id"]):
        done = shoal("explain", asked, "--at", cluster.names[1])
        assert (done.exit_code, done.stderr) == (0, "")
        assert f"by the gateway of {cluster.names[0]}" in done.stdout
        assert (
            f"sent to {named.headers['x-shoal-engine']}: picked by least_connections among 2 engines"
            in done.stdout
        )
        assert "status 200" in done.stdout
    told = json.loads(shoal("explain", "Ticket-4711", "-c", cluster.path, "--json").stdout)
    assert [row["engine"] for row in told["requests"][0]["steps"][0]["candidates"]] == sorted(
        cluster.ready_engines(0)
    )
    nobody = shoal("explain", "nobody", "-c", cluster.path)
    assert nobody.exit_code == 1
    assert "no gateway remembers a request nobody" in nobody.stderr

    body = {"model": "sim-model", "prompt": "count", "max_tokens": 200, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(0, "/v1/completions"), json=body) as reply:
        lines = reply.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        engine = reply.headers["x-shoal-engine"]
        cluster.kill_engine(cluster.names.index(engine.partition("/")[0]))
        assert "data: [DONE]" in list(lines)
    (resumed,) = json.loads(shoal("explain", first["id"], "-c", cluster.path, "--json").stdout)["requests"]
    assert [step["what"] for step in resumed["steps"]] == ["failed", "picked", "resumed"]
    assert resumed["steps"][0]["engine"] == engine
    assert 0 < resumed["steps"][2]["tokens"] < 200
    assert (resumed["status"], resumed["engine"] != engine) == (200, True)


def unpacked(bundle: Path) -> dict[str, str]:
    """Return the files of a support bundle."""
    with tarfile.open(bundle) as opened:
        return {m.name.partition("/")[2]: opened.extractfile(m).read().decode() for m in opened.getmembers()}


def test_a_support_bundle_holds_what_helps_and_no_secret(make_cluster: Make, monkeypatch: pytest.MonkeyPatch):
    planted = {
        "secret": "planted-cluster-secret-0001",
        "admin": "planted-admin-key-0000000002",
        "api": "planted-api-key-000000000003",
        "hf": "planted-hf-token-0000004",
        "engine": "planted-engine-key-000005",
        "broker": "planted-broker-password-6",
    }
    monkeypatch.setenv("HF_TOKEN", planted["hf"])
    monkeypatch.setenv("BROKER_URL", f"amqp://shoal:{planted['broker']}@127.0.0.1:1/x")
    model = {
        "path": "sim-model",
        "engine": "sim",
        "env": {"HF_TOKEN": planted["hf"], "A_TOKEN": planted["engine"]},
    }
    keys = {"api_keys": [planted["api"]], "admin_keys": [planted["admin"]]}
    cluster = make_cluster(2, cluster={"secret": planted["secret"]}, model=model, gateway={"keys": keys})
    for index in (0, 1):
        cluster.start_node(index)
    for index in (0, 1):
        wait_until(lambda i=index: cluster.output(i).count("is ready after"), 100, "an engine is ready")
    for path in (cluster.directory / "state").glob("*/logs/*.log"):
        with path.open("a") as log:
            log.write(" ".join(["leaked:", *planted.values(), f"amqp://u:{planted['broker']}@h/\n"]))
    bundle = cluster.directory / "bundle.tar.gz"
    done = shoal("doctor", "-c", cluster.path, "-o", bundle, "--json")
    assert (done.exit_code, json.loads(done.stdout)["nodes"]) == (0, sorted(cluster.names)), done.output
    assert bundle.stat().st_mode & 0o777 == 0o600
    files = unpacked(bundle)
    for what, value in planted.items():
        assert [name for name, text in files.items() if value in text] == [], what
    for name in cluster.names:
        folder = f"nodes/{name}"
        assert "leaked:" in files[f"{folder}/logs/sim-model-0.log"]
        assert f"node {name} is up" in files[f"{folder}/logs/node.log"]
        assert "shoal_build_info" in files[f"{folder}/metrics.prom"]
        assert json.loads(files[f"{folder}/certificates.json"])[0]["valid_until"] > "2026"
        assert json.loads(files[f"{folder}/machine.json"])["cpus"] >= 1
        assert json.loads(files[f"{folder}/config.json"])["cluster.secret"] == "(hidden)"
        assert json.loads(files[f"{folder}/node.json"])["versions"]["version"]
        assert json.loads(files[f"{folder}/events.json"])

    # Of a node that is down, what it has left on this machine; and so where none runs any more.
    tools = cluster.directory / "tools"
    tools.mkdir()
    (tools / "journalctl").write_text(f'#!/bin/sh\necho "journal of $2 {planted["secret"]}"\n')
    (tools / "journalctl").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    cluster.power_off(1)
    wait_until(lambda: any("is dead" in line for line in cluster.output(0).splitlines()), 60, "it is lost")
    for status, reached in ((1, [cluster.names[0]]), (2, [])):
        done = shoal("doctor", "-c", cluster.path, "-o", bundle, PATH=path)
        assert done.exit_code == status, done.output
        assert f"not reached: {cluster.names[1]}" in done.stderr
        files = unpacked(bundle)
        about = json.loads(files["about.json"])
        assert about["nodes"] == reached
        assert list(about["unreached"]) == about["left"] == sorted({*cluster.names} - {*reached})
        for name in about["left"]:
            folder = f"nodes/{name}"
            assert "leaked: " in files[f"{folder}/logs/sim-model-0.log"]
            assert f"journal of shoal-{name.rpartition(':')[2]}" in files[f"{folder}/logs/journal.log"]
            assert json.loads(files[f"{folder}/machine.json"])["cpus"] >= 1
        for what, value in planted.items():
            assert [name for name, text in files.items() if value in text] == [], what
        if reached:
            cluster.power_off(0)


def test_the_screen_of_top_shows_a_cluster_and_drains_a_node(make_cluster: Make):
    cluster = started(make_cluster(2))

    async def main() -> None:
        screen = Top(ClusterSource(Asked("top", cluster.path, None, None), None), 0.5)
        async with screen.run_test(size=(160, 40)) as pilot:

            async def shown(text: str) -> None:
                deadline = time.monotonic() + 60
                while not any(text in cell for row in cells() for cell in row):
                    assert time.monotonic() < deadline, f"{text}: {cells()}"
                    await pilot.pause(0.1)

            def cells() -> list[list[str]]:
                tables = screen.screen_stack[0].query(DataTable)
                return [[str(cell) for cell in t.get_row_at(i)] for t in tables for i in range(t.row_count)]

            for name in cluster.names:
                await shown(f"{name}/sim-model-0")
            await pilot.press("down", "d")
            await pilot.pause(0.2)
            await pilot.press("y")
            await shown("drained")

    asyncio.run(main())
    assert cluster.status(0)["members"][1]["state"] == "drained"
