"""Engine ports that demand the cluster's certificate: what gets through them, and what does not."""

import contextlib
import json
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.cluster.pki import Authority
from support.cluster import Cluster
from support.handshakes import RefusedError, asked, with_certificate, without_certificate
from support.load import Load
from support.processes import runs
from support.wait import wait_until

Make = Callable[..., Cluster]
SECRET = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
SIM = {"path": "sim-model", "engine": "sim", "args": {"decode-ms": 10}}
# Those of the simulated engine, of vLLM, and some that nobody has.
PATHS = (
    "/", "/health", "/ping", "/version", "/load", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions",
    "/v1/embeddings", "/v1/messages", "/invocations", "/tokenize", "/detokenize", "/pooling", "/score", "/rerank",
    "/reset_prefix_cache", "/openapi.json", "/docs", "/sim/state", "/sim/fault", "/nowhere", "/../health", "/%2e%2e/x",
    "//health", "/v1/../health", "*", "http://engine/health",
)  # fmt: skip


def secured(secret: str = SECRET, tls: str = "on") -> dict[str, str]:
    return {"secret": secret, "tls": tls}


def engines(cluster: Cluster, seen_by: int, index: int) -> list[dict[str, Any]]:
    return list(cluster.member(seen_by, index).get("engines", []))


def port_of(cluster: Cluster, index: int) -> int:
    return int(engines(cluster, index, index)[0]["port"])


def rewritten(cluster: Cluster, /, **config: Any) -> Path:
    return cluster.write("changed.yaml", cluster.config | config)


def test_requests_flow_over_three_nodes_and_an_engine_port_refuses_all_others(
    make_cluster: Make, tmp_path: Path
):
    cluster = make_cluster(nodes=3, model=SIM, cluster=secured()).start()
    answered = set()
    for index in range(3):
        for _ in range(6):
            reply = cluster.chat(index)
            assert reply.status_code == 200, reply.text
            answered.add(reply.headers["x-shoal-engine"].partition("/")[0])
    assert answered == set(cluster.names), "every node's engine has answered, also through other nodes"

    authority = Authority("shoal", SECRET)
    assert {e["authority"] for i in range(3) for e in engines(cluster, 0, i)} == {authority.fingerprint}
    port = port_of(cluster, 1)
    ours = with_certificate(tmp_path, authority, "somebody:1")
    assert asked(port, "/health", ours).startswith(b"HTTP/1.1 200")
    before = calls(port, ours)
    strangers: dict[str, ssl.SSLContext] = {
        "no certificate": without_certificate(),
        "no certificate, TLS 1.2": without_certificate(ssl.TLSVersion.TLSv1_2),
        "another secret": with_certificate(tmp_path, Authority("shoal", OTHER)),
        "another cluster's name": with_certificate(tmp_path, Authority("other", SECRET)),
    }
    for who, context in strangers.items():
        for path in PATHS:
            for method in ("GET", "POST"):
                with pytest.raises(RefusedError):
                    pytest.fail(f"{who} got {asked(port, path, context, method=method)!r} of {method} {path}")
    for path in PATHS:  # plain HTTP
        with contextlib.suppress(RefusedError):
            assert asked(port, path, None) == b""
    assert calls(port, ours) == before, "no request of theirs has reached the engine"
    assert cluster.chat(0).status_code == 200

    for folder in (cluster.directory / "state").glob("*/tls/*"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {0o600}


def calls(port: int, context: ssl.SSLContext) -> dict[str, int]:
    return dict(json.loads(asked(port, "/sim/state", context).partition(b"\r\n\r\n")[2])["calls"])


def test_a_stream_goes_on_elsewhere_when_its_engine_is_killed(make_cluster: Make):
    cluster = make_cluster(nodes=3, model=SIM, cluster=secured()).start()
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 300, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(2, "/v1/completions"), json=body) as reply:
        assert reply.status_code == 200
        lines = reply.iter_lines()
        for _ in range(20):
            next(lines)
        index = cluster.names.index(reply.headers["x-shoal-engine"].partition("/")[0])
        cluster.kill_engine(index)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert any(line.startswith(": shoal: ") for line in rest)
    assert not any('"error"' in line for line in rest)
    undisturbed = cluster.http.post(cluster.url(1, "/v1/completions"), json=body | {"stream": False}).json()
    assert undisturbed["choices"][0]["text"].endswith(text_of(rest))
    cluster.wait_ready()


def text_of(lines: list[str]) -> str:
    chunks = [json.loads(x[6:]) for x in lines if x.startswith("data: {")]
    return "".join(c["choices"][0]["text"] for c in chunks if c["choices"])


def test_engines_of_a_dead_node_process_serve_on_and_are_adopted(make_cluster: Make):
    cluster = make_cluster(nodes=2, model=SIM, cluster=secured()).start()
    (engine,) = cluster.engine_processes(1)
    cluster.kill_node(1)
    wait_until(lambda: cluster.member(0, 1).get("state") == "dead", 10, "its death is noticed")
    served = {cluster.chat(0).headers["x-shoal-engine"].partition("/")[0] for _ in range(12)}
    assert cluster.names[1] in served
    for file in (cluster.directory / "state").glob("*/tls/*/node.pem"):
        file.unlink()  # as if renewed
    cluster.start_node(1)
    cluster.wait_ready()
    assert [p.pid for p in cluster.engine_processes(1)] == [engine.pid]
    assert any("is adopted: process" in e for e in cluster.events(1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (secured(tls="off"), secured()),
        (secured(), secured(tls="off")),
        (secured(), secured(OTHER)),
    ],
    ids=["turned on", "turned off", "another secret"],
)
def test_a_change_replaces_adopted_engines_one_by_one_and_no_request_fails(
    make_cluster: Make, before: dict[str, str], after: dict[str, str]
):
    cluster = make_cluster(nodes=1, model=SIM | {"engines_per_node": 2}, cluster=before)
    cluster.start_node(0)
    cluster.wait_ready(2)
    (old,) = {e["authority"] for e in engines(cluster, 0, 0)}
    former = {p.pid for p in cluster.engine_processes(0)}
    cluster.kill_node(0)
    cluster.start_node(0, rewritten(cluster, cluster=after))
    wait_until(lambda: any("is replaced" in e for e in cluster.events(0)), 20, "they are adopted")
    new = Authority("shoal", after["secret"]).fingerprint if after["tls"] == "on" else ""
    assert old != new

    def replaced() -> bool:
        now = engines(cluster, 0, 0)
        return [(e["state"], e["authority"]) for e in now] == [("ready", new)] * 2

    with Load(cluster, nodes=[0], clients=4) as load:
        wait_until(replaced, 40, "all are new", every=0.05)
    assert load.failures == []
    assert not former & {p.pid for p in cluster.engine_processes(0)}
    assert sum("is replaced: its configuration changed" in e for e in cluster.events(0)) == 2


def test_an_engine_whose_certificates_are_gone_is_ended_and_started_anew(make_cluster: Make):
    """Nobody could ask it anything, nor tell it from one that hangs."""
    cluster = make_cluster(nodes=1, model=SIM, cluster=secured()).start()
    (former,) = cluster.engine_processes(0)
    cluster.kill_node(0)
    for folder in (cluster.directory / "state").glob("*/tls"):
        shutil.rmtree(folder)
    cluster.start_node(0, rewritten(cluster, cluster=secured(OTHER)))
    cluster.wait_ready()
    assert any(
        "is not adopted: the certificate that its clients need is gone" in e for e in cluster.events(0)
    )
    assert not runs(former)
    assert engines(cluster, 0, 0)[0]["authority"] == Authority("shoal", OTHER).fingerprint
    assert cluster.chat(0).status_code == 200


def test_nodes_that_differ_in_the_setting_use_each_others_engines(make_cluster: Make):
    """As in the middle of a rolling change."""
    cluster = make_cluster(nodes=2, model=SIM, cluster=secured())
    plain = rewritten(cluster, cluster=secured(tls="off"))
    cluster.start_node(0)
    cluster.start_node(1, plain)
    cluster.wait_ready(2)
    for index in (0, 1):
        served = {cluster.chat(index).headers["x-shoal-engine"].partition("/")[0] for _ in range(6)}
        assert served == set(cluster.names), index
    assert [bool(e["authority"]) for i in (0, 1) for e in engines(cluster, 0, i)] == [True, False]


def test_a_hung_engine_over_tls_loses_its_requests_to_another_one(make_cluster: Make):
    """It takes connections, its kernel does, and shakes no hands."""
    cluster = make_cluster(
        nodes=2, model=SIM, cluster=secured(), recovery={"restart_delay": 0.2, "stall_timeout": 2}
    ).start()
    (hung,) = cluster.engine_processes(1)
    with Load(cluster, nodes=[0], clients=8) as load:
        wait_until(lambda: load.count() > 50, 20, "there is load")
        hung.suspend()
        wait_until(lambda: any("is killed" in e for e in cluster.events(1)), 30, "it is found")
        cluster.wait_ready()
        seen = load.count()
        wait_until(lambda: load.count() > seen + 50, 20, "work goes on")
    assert load.failures == []


def test_ports_that_only_this_machine_reaches_speak_plain_http(make_cluster: Make):
    cluster = make_cluster(nodes=1, model=SIM).start()
    assert httpx.get(f"http://127.0.0.1:{port_of(cluster, 0)}/health", trust_env=False).status_code == 200
    assert not list((cluster.directory / "state").glob("*/tls"))


def test_open_engine_ports_are_told(make_cluster: Make):
    config = {"nodes": [{"host": "127.0.0.1", "bind": "0.0.0.0"}]}
    cluster = make_cluster(nodes=1, model=SIM, cluster=secured(tls="off"))
    config["nodes"][0]["port"] = cluster.ports[0]
    cluster.start_node(0, rewritten(cluster, **config))
    cluster.wait_ready()
    assert any("`cluster.tls` is off" in e for e in cluster.events(0))
    cluster.stop_node(0)
    cluster.start_node(0, rewritten(cluster, **config, cluster=secured(tls="auto")))
    cluster.wait_ready()
    assert engines(cluster, 0, 0)[0]["authority"], "by itself it is on there"
    assert not any("`cluster.tls`" in e for e in cluster.events(0))
