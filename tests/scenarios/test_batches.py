"""Batches on real clusters: whatever happens to nodes, each line comes out once, with the right answer."""

from __future__ import annotations

import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from shoal.cluster.pki import Authority
from shoal.gateway.keys import digest_of
from support.batches import (
    client,
    require_right,
    results,
    right_answer,
    seen,
    submit,
    wait_ended,
    write,
)
from support.cluster import Cluster
from support.handshakes import RefusedError, asked, with_certificate, without_certificate
from support.wait import wait_until

Make = Callable[..., Cluster]
FAST = {"heartbeat_interval": 0.1, "suspect_after": 3, "confirm_timeout": 0.2}
RECOVERY = {"restart_delay": 0.2, "drain_timeout": 5, "takeover_after": 1.0}


def cluster_with(
    make_cluster: Make, nodes: int = 3, seqs: int = 8, decode_ms: int = 20, **more: Any
) -> Cluster:
    args = {"decode-ms": decode_ms, "max-num-seqs": seqs}
    return make_cluster(
        nodes,
        model={"path": "sim-model", "engine": "sim", "args": args},
        cluster=FAST | more.pop("cluster", {}),
        gateway={"workers": 1} | more.pop("gateway", {}),
        recovery=RECOVERY | more.pop("recovery", {}),
        **more,
    )


def done(cluster: Cluster, id_: str) -> int:
    batch = seen(cluster, id_)
    return 0 if batch is None else batch.request_counts.completed


def owner(cluster: Cluster, id_: str) -> int:
    batch = seen(cluster, id_)
    assert batch is not None
    return cluster.names.index(batch.shoal["owner"])


def state_of(cluster: Cluster, index: int) -> Any:
    return cluster.directory / f"state/127.0.0.1_{cluster.ports[index]}"


def power_off_and_lose_the_disk(cluster: Cluster, index: int) -> None:
    cluster.power_off(index)
    shutil.rmtree(state_of(cluster, index))


def break_things(cluster: Cluster, id_: str, kills: int, every: float) -> None:
    """Kill nodes, one after the other, the owner first and with its disk, and start each again."""
    for number in range(kills):
        before = done(cluster, id_)
        wait_until(lambda seen=before: done(cluster, id_) >= seen + 5, 60, "lines are answered", every=0.1)
        victim = (
            owner(cluster, id_) if number % 2 == 0 else (owner(cluster, id_) + number) % len(cluster.ports)
        )
        began = time.monotonic()
        if number == 0:
            power_off_and_lose_the_disk(cluster, victim)
        else:
            cluster.power_off(victim)
        cluster.start_node(victim)
        cluster.wait_ready()
        wait_until(lambda since=began: time.monotonic() - since >= every, every + 1, every=0.1)


def survives(cluster: Cluster, *, lines: int, tokens: int, kills: int, every: float, deadline: float) -> Any:
    path = write(cluster.directory / "in.jsonl", lines, tokens)
    batch = submit(client(cluster, 0), path)
    break_things(cluster, batch.id, kills, every)
    batch = wait_ended(cluster, batch.id, deadline)
    assert batch.status == "completed", batch
    assert (batch.request_counts.total, batch.request_counts.completed) == (lines, lines)
    for index in range(len(cluster.ports)):
        require_right(results(cluster, batch.output_file_id, index), lines, tokens)
    return batch


def test_nodes_die_the_owner_for_good_and_each_line_comes_out_once(make_cluster: Make):
    cluster = cluster_with(make_cluster).start()
    batch = survives(cluster, lines=400, tokens=20, kills=2, every=2, deadline=60)
    assert batch.shoal["generation"] >= 2


@pytest.mark.rare
@pytest.mark.timeout(1200)
def test_2000_lines_while_a_node_is_killed_every_20_seconds(make_cluster: Make):
    cluster = cluster_with(make_cluster, decode_ms=100, seqs=6).start()
    batch = survives(cluster, lines=2000, tokens=20, kills=6, every=20, deadline=900)
    assert batch.shoal["generation"] >= 2


def test_users_find_a_place_at_once_while_a_batch_uses_the_rest(make_cluster: Make):
    cluster = cluster_with(make_cluster, nodes=1, seqs=8).start()
    batch = submit(client(cluster, 0), write(cluster.directory / "in.jsonl", 3000, 50))
    wait_until(lambda: done(cluster, batch.id) > 10, 30, "it has begun")
    for number in range(5):
        answer = cluster.chat(0, f"hello {number}")
        assert answer.status_code == 200
        assert float(answer.headers.get("x-shoal-queue-time", 0)) < 0.5
    running = cluster.member(0, 0)["engines"][0]["running"]
    assert 4 <= running <= 9
    client(cluster, 0).batches.cancel(batch.id)


def test_a_batch_keeps_to_its_keys_models_and_the_key_pays(make_cluster: Make):
    secrets = {"anna": "sk-anna-0123456789abcdef", "bert": "sk-bert-0123456789abcdef"}
    cluster = cluster_with(
        make_cluster,
        nodes=2,
        gateway={"keys": {"file": "keys.yaml", "admin_keys": ["sk-root-0123456789abcdef"]}},
        cluster={"secret": "a secret of the cluster", "tls": "on"},
    )
    entries = [
        {"name": name, "hash": digest_of(secret.encode()).hex()}
        | ({"models": ["other"]} if name == "bert" else {})
        for name, secret in secrets.items()
    ]
    cluster.write("keys.yaml", {"keys": entries})
    cluster.http.headers["authorization"] = "Bearer sk-root-0123456789abcdef"
    cluster.start()
    anna, bert = (client(cluster, 0, secret) for secret in secrets.values())
    path = write(cluster.directory / "in.jsonl", 20)
    batches = {who: submit(who, path) for who in (anna, bert)}
    ended = {}
    for who, batch in batches.items():
        wait_until(lambda w=who, b=batch: w.batches.retrieve(b.id).status == "completed", 30, "it has ended")
        ended[who] = who.batches.retrieve(batch.id)
    assert ended[anna].request_counts.completed == 20
    assert ended[bert].request_counts.failed == 20
    assert "may not use the model" in bert.files.content(ended[bert].error_file_id).text
    with pytest.raises(openai.NotFoundError):
        bert.batches.retrieve(batches[anna].id)
    assert [b.id for b in bert.batches.list()] == [batches[bert].id]

    def charged() -> int:
        return sum(
            key["used"]["sim-model"]["requests"]
            for index in range(2)
            for key in cluster.http.get(cluster.url(index, "/shoal/v1/keys")).json()
            if key["name"] == "anna" and key["used"]
        )

    wait_until(lambda: charged() == 20, 10, "the key is charged for each line")
    assert right_answer(0) in anna.files.content(ended[anna].output_file_id).text


def test_copies_go_over_a_port_that_only_nodes_of_the_cluster_can_use(make_cluster: Make, tmp_path: Path):
    secret = "a secret of the cluster"
    cluster = cluster_with(make_cluster, nodes=2, cluster={"secret": secret, "tls": "off"}).start()
    batch = submit(client(cluster, 0), write(cluster.directory / "in.jsonl", 20))
    assert set(batch.shoal["copies"]) == set(cluster.names)
    ended = wait_ended(cluster, batch.id)
    require_right(results(cluster, ended.output_file_id, 1), 20)
    connections = psutil.Process(cluster.processes[0].pid).net_connections("tcp")
    ports = {c.laddr.port for c in connections if c.status == "LISTEN"} - set(cluster.ports)
    path = f"/v1/batches/{batch.id}"
    ours = with_certificate(tmp_path, Authority("shoal", secret), "somebody:1")
    (port,) = (port for port in ports if asked_by(port, path, ours).startswith(b"HTTP/1.1 200"))
    older = with_certificate(tmp_path, Authority("shoal", secret), "somebody:1")
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    for theirs in (without_certificate(), with_certificate(tmp_path, Authority("shoal", "x" * 16)), older):
        with pytest.raises(RefusedError):
            asked(port, path, theirs)
    for other in ports:  # the link, which is plain with `tls: off`, wants every request to be signed
        assert b"200 OK" not in asked_by(other, path, None)


def asked_by(port: int, path: str, context: ssl.SSLContext | None) -> bytes:
    try:
        return asked(port, path, context)
    except RefusedError:
        return b""
