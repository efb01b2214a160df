"""Files of models: nodes that lack them get them from others, and nobody serves what has another hash."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from scenarios.test_drain import shoal
from shoal.models.manifest import Hashes, manifest_of
from support.cluster import Cluster
from support.hub import Hub
from support.wait import wait_until

Make = Callable[..., Cluster]
MB = 1_000_000


def write_model(cluster: Cluster, index: int, files: dict[str, bytes]) -> Path:
    """Put a model where a node looks for it, whose home is a directory of its own, as on a machine of its own."""
    directory = home(cluster, index) / "models" / "m"
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def home(cluster: Cluster, index: int) -> Path:
    return cluster.directory / f"home{index}"


def start(cluster: Cluster, *indices: int) -> None:
    for index in indices:
        home(cluster, index).mkdir(exist_ok=True)
        cluster.start_node(index, HOME=str(home(cluster, index)))


def cluster_with(make_cluster: Make, nodes: int, files: dict[str, object], **model: object) -> Cluster:
    settings = {"name": "sim-model", "path": "~/models/m", "engine": "sim"} | model
    cluster = {"secret": "the secret of this cluster", "tls": "on"}
    return make_cluster(nodes, model=settings, files={"fetch": "on"} | files, cluster=cluster)


def digest(directory: Path, tmp_path: Path) -> str:
    return manifest_of(directory, Hashes(tmp_path / f"hashes-{directory.parts[-3]}")).digest()


def has_event(cluster: Cluster, index: int, *parts: str) -> bool:
    return any(all(part in text for part in parts) for text in cluster.events(index))


def test_a_node_gets_a_model_from_two_others_at_once_and_one_of_them_dies_half_way(
    make_cluster: Make, tmp_path: Path
):
    cluster = cluster_with(make_cluster, 3, {"max_rate": "60MB"})
    files = {f"model-{i}.safetensors": os.urandom(45 * MB) for i in range(6)} | {"config.json": b"{}"}
    for index in (0, 1):
        write_model(cluster, index, files)
    del files
    start(cluster, 0, 1)
    cluster.wait_ready(2)
    start(cluster, 2)
    target = home(cluster, 2) / "models" / "m"
    partial = target.parent / ".m.shoal-partial"

    def copied() -> int:
        return sum(f.stat().st_blocks * 512 for f in partial.glob("*.safetensors"))

    wait_until(lambda: copied() > 120 * MB, 60, "nearly half of it is there")
    assert cluster.ready_engines(2) == [f"{cluster.names[i]}/sim-model-0" for i in (0, 1)]
    detail = cluster.member(0, 2)["engines"][0]["detail"]
    assert "copies its files from 2 nodes" in detail
    assert "% of 270 MB" in detail
    assert not target.exists()
    cluster.power_off(0)
    wait_until(lambda: f"{cluster.names[2]}/sim-model-0" in cluster.ready_engines(2), 60, "it serves")
    assert digest(target, tmp_path) == digest(home(cluster, 1) / "models" / "m", tmp_path)
    assert not partial.exists()
    (done,) = [text for text in cluster.events(2) if "their hashes are right" in text]
    assert all(name in done for name in cluster.names[:2])
    # From now on it gives to others, too.
    files_of = cluster.member(1, 2)["files"]
    assert files_of == {"sim-model": digest(target, tmp_path)}


def test_while_its_files_are_copied_a_model_answers_503_with_how_far_they_are(make_cluster: Make):
    cluster = cluster_with(make_cluster, 2, {"max_rate": "4MB"})
    write_model(cluster, 0, {"config.json": b"{}", "model.safetensors": os.urandom(20 * MB)})
    start(cluster, 0)
    cluster.wait_ready(1, nodes=[0])
    assert shoal("drain", cluster.names[0], "-c", cluster.path, "--force").returncode == 0
    cluster.stop_node(0)
    start(cluster, 1)
    wait_until(lambda: has_event(cluster, 1, "no other node has it to give"), 15, "told what is missing")
    # Nothing is known to gateways before the node has told them, and from then on why.
    wait_until(lambda: "does not exist on this machine" in cluster.chat(1).text, 15, "clients are told, too")
    assert cluster.chat(1).status_code == 503
    start(cluster, 0)
    wait_until(lambda: "copies its files from 1 node" in cluster.chat(1).text, 20, "told how far it is")
    reply = cluster.chat(1)
    assert reply.status_code == 503
    assert "% of 20 MB" in reply.text
    assert int(reply.headers["retry-after"]) > 0
    wait_until(lambda: cluster.chat(0).status_code == 200, 30, "it serves")


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_with_another_hash_is_deleted_fetched_again_and_never_served(
    make_cluster: Make, tmp_path: Path, pinned: bool
):
    files = {"config.json": b"{}", "model.safetensors": os.urandom(2 * MB)}
    more = {}
    if pinned:
        for name, content in files.items():
            (tmp_path / "one" / "models" / "m").mkdir(parents=True, exist_ok=True)
            (tmp_path / "one" / "models" / "m" / name).write_bytes(content)
        more = {"sha256": digest(tmp_path / "one" / "models" / "m", tmp_path)}
    cluster = cluster_with(make_cluster, 2, {}, **more)
    write_model(cluster, 0, files)
    start(cluster, 0, 1)
    cluster.wait_ready(2)
    target = home(cluster, 1) / "models" / "m"
    right = digest(target, tmp_path)
    cluster.stop_node(1)
    (target / "model.safetensors").write_bytes(os.urandom(2 * MB))
    cluster.stop_node(0)
    start(cluster, 1)
    # Nobody is there who could give it: nothing is served, and nothing deleted.
    wait_until(lambda: cluster.status(1).get("members"), 15, "it is up")
    wait_until(
        lambda: has_event(cluster, 1, "model.safetensors") or has_event(cluster, 1, "sha256"), 15, "told"
    )
    assert cluster.ready_engines(1) == []
    assert (target / "model.safetensors").exists()
    start(cluster, 0)
    cluster.wait_ready(2)
    assert has_event(
        cluster, 1, "model.safetensors had not the hash it should have: deleted, and fetched again"
    )
    assert digest(target, tmp_path) == right


def test_nodes_with_other_files_are_told_of(make_cluster: Make):
    cluster = cluster_with(make_cluster, 2, {})
    write_model(cluster, 0, {"config.json": b"{}"})
    write_model(cluster, 1, {"config.json": b"{ }"})
    start(cluster, 0, 1)
    cluster.wait_ready(2)
    wait_until(lambda: has_event(cluster, 0, "the files here are not those of", cluster.names[1]), 10, "told")


# What Shoal starts vLLM with, and answers as it would: the simulated engine, which needs no files, in its place.
_INTERPRETER = """#!/bin/sh
case "$1" in
  *vllm_launcher.py) path="$3"; shift 3; echo "$path" >> "$HOME/served"; exec {python} -m shoal.sim "$@" ;;
  *) exec {python} "$@" ;;
esac
"""


@pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs vLLM's huggingface_hub")
def test_a_model_of_a_hub_is_downloaded_by_one_node_and_copied_by_the_others(make_cluster: Make):
    files = {"config.json": b"{}", "model.safetensors": os.urandom(3 * MB), "pytorch_model.bin": b"old"}
    cluster = cluster_with(make_cluster, 2, {})
    interpreter = cluster.directory / "python"
    interpreter.write_text(_INTERPRETER.format(python=sys.executable))
    interpreter.chmod(0o755)
    cluster.config["model"] = {"path": "org/tiny", "name": "sim-model"}
    cluster.config["engines"] = {"python": str(interpreter)}
    cluster.path = cluster.write("config.yaml", cluster.config)
    with Hub("org/tiny", files) as hub:
        for index in (0, 1):
            home(cluster, index).mkdir()
            own = {"HOME": str(home(cluster, index)), "HF_HOME": str(home(cluster, index) / "hf")}
            cluster.start_node(index, **own, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
        cluster.wait_ready(2, deadline=60)
    assert hub.got == {"config.json": 1, "model.safetensors": 1}
    for index in (0, 1):
        own_copy = cluster.directory / f"state/127.0.0.1_{cluster.ports[index]}/models/org--tiny"
        assert (home(cluster, index) / "served").read_text().split() == [str(own_copy)]
        assert (own_copy / "model.safetensors").read_bytes() == files["model.safetensors"]
    told = [text for index in (0, 1) for text in cluster.events(index)]
    assert sum("this one downloads it from its hub" in text for text in told) == 1
    assert sum("their hashes are right" in text for text in told) == 1


@pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs vLLM's huggingface_hub")
def test_a_hub_that_cannot_be_reached_is_told_with_the_reason(make_cluster: Make):
    cluster = cluster_with(make_cluster, 2, {})
    cluster.config["model"] = {"path": "org/tiny", "name": "sim-model"}
    cluster.path = cluster.write("config.yaml", cluster.config)
    home(cluster, 0).mkdir()
    cluster.start_node(0, HOME=str(home(cluster, 0)), HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    wait_until(lambda: has_event(cluster, 0, "org/tiny cannot be downloaded here"), 60, "told")
    assert "cannot be downloaded here" in cluster.chat(0).text
