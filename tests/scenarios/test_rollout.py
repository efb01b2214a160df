"""`shoal optimize rollout`: a model tried on one engine; the others follow, or it goes back by itself."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenarios.test_apply import cluster_of, salts
from support.cluster import Cluster
from support.load import Load

Make = Callable[..., Cluster]
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def better(tmp_path: Path) -> Path:
    """Return a directory that looks like a model; simulated engines read nothing of it."""
    path = tmp_path / "better"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


def started(make_cluster: Make, nodes: int) -> Cluster:
    """Return a running cluster whose engines may take long to start: a busy machine is no news here."""
    patient = {"start_timeout": 120, "probe_interval": 0.2, "probe_timeout": 10}
    cluster = cluster_of(make_cluster, nodes, engines=patient)
    for index in range(nodes):
        cluster.start_node(index)
    cluster.wait_ready(deadline=120)
    return cluster


def rollout(cluster: Cluster, directory: Path, *words: Any) -> tuple[int, str]:
    """Roll out on the cluster; return the exit status and all that was said. It takes as long as its engines do."""
    command = [sys.executable, "-m", "shoal", "optimize", "rollout", directory, "-c", cluster.path]
    done = subprocess.run(
        [*map(str, command), "--prompts", "8", "--watch", "4", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def pids(cluster: Cluster) -> list[int]:
    return [p.pid for index in range(len(cluster.ports)) for p in cluster.engine_processes(index)]


def load_of(cluster: Cluster) -> Load:
    return Load(cluster, nodes=[0, 1], clients=3, streams=2, limit=300, pause=0.02)


def test_a_good_model_is_tried_on_one_engine_and_then_served_by_all(make_cluster: Make, better: Path):
    cluster = started(make_cluster, 3)
    before = pids(cluster)
    with load_of(cluster) as load:
        # The simulated engine's answers depend on its salt alone, so these are the same as before. That a busy machine
        # makes one engine slower than another by chance is nothing this test is about.
        status, told = rollout(cluster, better, "--max-slower", 20)
    assert status == 0, told
    assert load.failures == []
    after = pids(cluster)
    assert len(after) == 3
    assert not set(after) & set(before)
    story = [
        "canary: engine",
        "says the same next word as",
        "after 8 of 8 beginnings (100 %)",
        "serves beside the others for 4 s",
        "the next event of a stream takes",
        "generation 1 of the configuration holds on every node",
    ]
    events = "\n".join(text for index in (0, 1, 2) for text in cluster.events(index))
    at = -1
    for words in story:
        assert words in events
        assert told.index(words) > at, words
        at = told.index(words)
    assert f"write it into {cluster.path}, too: `path: {better}` of model sim-model" in told
    assert cluster.chat(0).status_code == 200  # under the name it had
    assert rollout(cluster, better) == (0, f"the cluster serves {better} already\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--arg", "salt=other", "--max-slower", 20), "at least 60 % are asked"),
        (("--arg", "decode-ms=40"), "times as long, at most 1.5 is asked"),
    ],
    ids=["answers_differ", "too_slow"],
)
def test_one_that_is_not_good_enough_goes_back_by_itself(
    make_cluster: Make, better: Path, words: tuple[Any, ...], why: str
):
    cluster = started(make_cluster, 2)
    untouched = [p.pid for p in cluster.engine_processes(1)]
    with load_of(cluster) as load:
        status, told = rollout(cluster, better, *words)
        cluster.wait_ready(2, deadline=120)
    assert (status, why in told) == (1, True), told
    assert "the configuration is rolled back: " in told
    assert "the former configuration holds, as before" in told
    assert load.failures == []
    assert salts(cluster, [0, 1]) == {""}
    assert [p.pid for p in cluster.engine_processes(1)] == untouched
    assert any(why in text for index in (0, 1) for text in cluster.events(index))


def test_a_file_that_differs_in_more_is_refused(make_cluster: Make, better: Path):
    cluster = started(make_cluster, 2)
    before = pids(cluster)
    cluster.path = cluster.write("other.yaml", cluster.config | {"routing": {"policy": "least_connections"}})
    status, told = rollout(cluster, better)
    assert status == 1
    assert "differs from what runs in more than this model (routing.policy:" in told
    assert "`shoal apply` it first" in told
    assert pids(cluster) == before
