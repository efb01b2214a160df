"""`shoal batch`, `shoal backup` and `shoal restore`, as people run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.sim.responses import as_chat
from support.batches import MODEL, client, require_right, results, right_chat, submit, wait_ended, write
from support.cluster import Cluster
from support.wait import wait_until

Make = Callable[..., Cluster]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "shoal", *map(str, arguments)]


def shoal(*arguments: object, status: int = 0) -> str:
    """Run the command in this process and return what it prints."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def cluster_with(make_cluster: Make, nodes: int = 2) -> Cluster:
    args = {"decode-ms": 20, "max-num-seqs": 8}
    return make_cluster(
        nodes, model={"path": "sim-model", "engine": "sim", "args": args}, gateway={"workers": 1}
    ).start()


def test_a_run_that_is_killed_again_and_again_comes_back_to_its_batch(make_cluster: Make, tmp_path: Path):
    cluster = cluster_with(make_cluster)
    source, output = write(tmp_path / "in.jsonl", 250, 20), tmp_path / "out.jsonl"
    # Started in the background of a shell, pytest may have been told to ignore SIGINT, which children inherit.
    heed = ["env", "--default-signal=INT"]
    run = [*heed, *command("batch", "run", source, "-o", output, "--config", cluster.path)]
    note = tmp_path / "out.jsonl.shoal"
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert any("batch_" in said for said in process.stderr)  # it is submitted, or found again
        assert json.loads(note.read_bytes())["batch"]
        process.send_signal(how)
        process.communicate(timeout=20)
        assert process.returncode == (130 if how == signal.SIGINT else -9)
    said = shoal("batch", "run", source, "-o", output, "--config", cluster.path)
    assert "going on with batch_" in said
    require_right([json.loads(text) for text in output.read_text().splitlines()], 250, 20)
    assert len(list(client(cluster, 0).batches.list())) == 1
    assert not note.exists()
    assert "nothing to do" in shoal("batch", "run", source, "-o", output, "--url", cluster.url(1))
    # What the output does not have is run, and nothing else.
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:-5]))
    assert "5 are left" in shoal("batch", "run", source, "-o", output, "--url", cluster.url(1))
    require_right([json.loads(text) for text in output.read_text().splitlines()], 250, 20)
    totals = [b.request_counts.total for b in client(cluster, 0).batches.list()]
    assert totals == [5, 250]


def test_what_is_wrong_is_told(make_cluster: Make, tmp_path: Path):
    cluster = cluster_with(make_cluster, nodes=1)
    source, output = write(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    source.write_text(source.read_text() + "no json\n")
    said = shoal("batch", "run", source, "-o", output, "--url", cluster.url(0), status=1)
    assert "3 answered, 1 failed" in said
    errors = [json.loads(t) for t in (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()]
    assert [e["error"]["line"] for e in errors] == [4]
    assert "no input of a batch" in shoal(
        "batch", "run", cluster.path, "-o", output.with_name("o"), "--url", cluster.url(0), status=2
    )
    assert "is no file" in shoal("batch", "run", "x", "-o", output, "--url", cluster.url(0), status=2)
    assert "one of them" in shoal("batch", "run", source, "-o", output, status=2)
    listed = shoal("batch", "list", "--url", cluster.url(0))
    assert "completed" in listed
    long = submit(client(cluster, 0), write(tmp_path / "long.jsonl", 2000, 50))
    cancelled = json.loads(shoal("batch", "cancel", long.id, "--json", "--url", cluster.url(0)))
    assert cancelled["id"] == long.id
    assert cancelled["status"] in ("cancelling", "cancelled")
    assert "There is no batch" in shoal("batch", "cancel", "batch_0", "--url", cluster.url(0), status=2)


def test_responses_are_run_as_other_requests_are_and_survive_their_engine(make_cluster: Make, tmp_path: Path):
    cluster = cluster_with(make_cluster)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bodies = {
        f"r{n}": {"model": MODEL, "input": f"question {n}", "max_output_tokens": 20, "ignore_eos": True}
        for n in range(80)
    }
    lines = [*bodies.items(), ("late", bodies["r0"] | {"background": True})]
    source.write_text(
        "".join(
            json.dumps({"custom_id": name, "method": "POST", "url": "/v1/responses", "body": body}) + "\n"
            for name, body in lines
        )
    )
    run = subprocess.Popen(command("batch", "run", source, "-o", output, "--config", cluster.path))

    def completed() -> int:
        found = list(client(cluster, 0).batches.list())
        return found[0].request_counts.completed if found else 0

    wait_until(lambda: completed() > 10, 30, "some are done")
    assert completed() < 60
    cluster.kill_engine(1)
    assert run.wait(60) == 1  # one line was refused
    (refused,) = [json.loads(t) for t in (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()]
    assert (refused["custom_id"], refused["error"]["code"]) == ("late", "background_not_possible")
    found = [json.loads(text) for text in output.read_text().splitlines()]
    assert sorted(r["custom_id"] for r in found) == sorted(bodies)
    for result in found:
        answer = result["response"]["body"]
        prompt = as_chat(bodies[result["custom_id"]])
        assert answer["output"][0]["content"][0]["text"] == right_chat(prompt)
    (batch,) = client(cluster, 0).batches.list()
    assert batch.usage.output_tokens == 20 * len(bodies)


def test_a_lost_cluster_comes_back_from_a_backup(make_cluster: Make, tmp_path: Path):
    cluster = cluster_with(make_cluster)
    batch = submit(client(cluster, 0), write(tmp_path / "in.jsonl", 150, 20))
    wait_until(lambda: client(cluster, 0).batches.retrieve(batch.id).request_counts.completed > 20, 20)
    archive = tmp_path / "backup.tar.gz"
    said = shoal("backup", "-o", archive, "--config", cluster.path)
    assert all(name in said for name in cluster.names)
    assert archive.stat().st_mode & 0o077 == 0
    assert "runs (process" in shoal("restore", archive, "--config", cluster.path, status=2)
    for index in range(2):
        cluster.power_off(index)
    state = cluster.directory / "state"
    assert "has state in" in shoal("restore", archive, "--config", cluster.path, status=2)
    shutil.rmtree(state)
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(archive.read_bytes()[:-2000])
    assert "no complete backup" in shoal("restore", damaged, "--config", cluster.path, status=2)
    shoal("restore", archive, "--config", cluster.path)
    for index in range(2):
        cluster.start_node(index)
    cluster.wait_ready()
    ended = wait_ended(cluster, batch.id)
    assert ended.status == "completed"
    require_right(results(cluster, ended.output_file_id), 150, 20)
    assert os.listdir(state)  # noqa: PTH208
