"""Metrics of real nodes: each one its own, any one all of them, whoever of them is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from shoal.cluster.scrape_key import scrape_key
from shoal.config import load
from shoal.node.peers import Peers
from support.cluster import Cluster
from support.metrics import complaints, samples, total
from support.wait import wait_until

Make = Callable[..., Cluster]
MODEL = "sim-model"


def scrape(cluster: Cluster, node: int, path: str = "/metrics", key: str | None = None) -> str:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    reply = cluster.http.get(cluster.url(node, path), headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return reply.text


def ask_everybody(cluster: Cluster, requests: int) -> None:
    for node in range(len(cluster.ports)):
        for _ in range(requests):
            assert cluster.chat(node).status_code == 200
        assert cluster.chat(node, stream=True, max_tokens=20).status_code == 200
        assert cluster.chat(node, model="nobody").status_code == 404


def test_each_node_tells_of_its_own_and_any_of_all(cluster: Cluster):
    ask_everybody(cluster, 6)
    own = [scrape(cluster, node) for node in range(3)]
    for name, text in zip(cluster.names, own, strict=True):
        assert complaints(text) == []
        assert total(text, "shoal_gateway_requests_total", model=MODEL, code="200") == 7
        assert total(text, "shoal_gateway_requests_total", model="", code="404") == 1
        assert total(text, "shoal_gateway_e2e_request_latency_seconds_count", model=MODEL) == 7
        assert total(text, "shoal_gateway_time_to_first_token_seconds_count") == 1
        assert total(text, "shoal_gateway_inter_token_latency_seconds_count") > 10
        assert {s.labels["node"] for s in samples(text, "shoal_build_info")} == {name}

    def running() -> list[float]:
        return [s.value for s in samples(scrape(cluster, 0), "vllm:generation_tokens_total")]

    wait_until(running, 10, "what the engine says is passed on")
    text = scrape(cluster, 1, "/metrics/cluster")
    assert complaints(text) == []
    assert total(text, "shoal_node_up") == 3
    assert total(text, "shoal_gateway_requests_total", code="200", model=MODEL) == 21
    wait_until(
        lambda: (
            {
                (s.labels["node"], s.labels["engine"], s.labels["dp_rank"])
                for s in samples(scrape(cluster, 2, "/metrics/cluster"), "vllm:generation_tokens_total")
            }
            == {(name, f"{name}/{MODEL}-0", "0") for name in cluster.names}
        ),
        10,
        "what all engines say is passed on",
    )


def test_nodes_that_do_not_answer_are_shown_as_such(cluster: Cluster):
    cluster.power_off(2)
    for node in (0, 1):
        wait_until(lambda n=node: cluster.member(n, 2)["state"] == "dead", 10)
    text = scrape(cluster, 0, "/metrics/cluster")
    up = {s.labels["node"]: s.value for s in samples(text, "shoal_node_up")}
    assert up == dict(zip(cluster.names, (1.0, 1.0, 0.0), strict=True))
    for seen_by in (0, 1):
        at = {"node": cluster.names[seen_by], "member": cluster.names[2]}
        assert total(text, "shoal_member_state", state="dead", **at) == 1
    assert total(text, "shoal_model_engines_ready", node=cluster.names[0]) == 2


def test_restarts_retries_and_faults_are_counted(cluster: Cluster):
    cluster.kill_engine(0)
    wait_until(lambda: total(scrape(cluster, 0), "shoal_engine_restarts_total") == 1, 10)
    cluster.wait_ready()
    text = scrape(cluster, 0)
    assert total(text, "shoal_engine_state", state="ready") == 1
    assert total(text, "shoal_events_total", level="warning") >= 1
    assert total(text, "shoal_heartbeat_datagrams_total", result="received") > 0


def test_where_metrics_are_for_admins_nodes_and_prometheus_have_a_key_for_them(
    make_cluster: Make, tmp_path: Path
):
    secret = "a secret of this cluster"
    keys = {"admin_keys": ["an-admin-key-of-the-test"], "metrics": "admin"}
    cluster = make_cluster(nodes=2, gateway={"keys": keys}, cluster={"secret": secret, "tls": "off"})
    cluster.http.headers["authorization"] = "Bearer an-admin-key-of-the-test"
    cluster.start()
    del cluster.http.headers["authorization"]
    assert cluster.http.get(cluster.url(0, "/metrics")).status_code == 401
    key = scrape_key("shoal", secret)
    # A node of a busy machine may take longer than the three seconds that it is given.
    wait_until(
        lambda: total(scrape(cluster, 1, "/metrics/cluster", key), "shoal_node_up") == 2, 30, "both answer"
    )
    shown = {"authorization": f"Bearer {key}"}
    assert cluster.http.get(cluster.url(0, "/shoal/v1/status"), headers=shown).status_code == 401
    # With another state directory, nodes find no unix socket of the others, as on machines of their own.
    elsewhere = cluster.write("elsewhere.yaml", cluster.config | {"state_dir": str(tmp_path / "elsewhere")})
    peers = {k: Peers(load(elsewhere).config, k, 5) for k in (key, None)}
    answers = {k: asyncio.run(p.ask([*cluster.names, "127.0.0.1:1"], "/metrics")) for k, p in peers.items()}
    assert set(answers[None].values()) == {None}
    assert [total(answers[key][name] or "", "shoal_build_info") for name in cluster.names] == [1, 1]
    assert answers[key]["127.0.0.1:1"] is None


def test_an_engine_across_nodes_is_told_by_all_of_them_and_its_own_metrics_once(make_cluster: Make):
    cluster = make_cluster(nodes=2, model={"path": MODEL, "engine": "sim", "type": "xlarge"})
    for node in (0, 1):
        cluster.start_node(node)
    cluster.wait_ready(1, deadline=90)

    def told() -> bool:
        text = scrape(cluster, 1, "/metrics/cluster")
        running = samples(text, "shoal_group_part_state", state="running", model=MODEL)
        by_rank = {s.labels["rank"]: (s.labels["node"], s.value) for s in running}
        generations = {s.value for s in samples(text, "shoal_group_generation", model=MODEL)}
        own = samples(text, "vllm:num_requests_running")
        wanted = {str(rank): (cluster.names[rank], 1.0) for rank in (0, 1)}
        return by_rank == wanted and len(generations) == len(own) == 1 and 0.0 not in generations

    wait_until(told, 15, "both parts are told")
    assert complaints(scrape(cluster, 0)) == []
