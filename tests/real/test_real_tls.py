"""A real vLLM engine whose port demands the cluster's certificate: on every route it has, and on those it has not."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.cluster.pki import Authority
from support.cluster import Cluster
from support.handshakes import RefusedError, asked, with_certificate, without_certificate

MODEL = "SmolLM2-135M-Instruct"
SECRET = "0123456789abcdef0123456789abcdef"
READY = 400.0  # seconds: as in test_real_cluster
_ROUTE = re.compile(r"Route: (\S+), (?:Methods: ([A-Z, ]+)|Endpoint: )")
# What no server has, spellings of what one has, and what is not even a path.
NONSENSE = (
    "/nowhere", "/v1", "/v1/", "//v1/models", "/v1/../metrics", "/%2e%2e/metrics", "/metrics/", "/metrics?a=b",
    "/METRICS", "*", "http://engine/metrics", "/x" * 2000,
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, real_model: dict[str, Any]) -> Iterator[Cluster]:
    """Return one running node with a real engine that speaks TLS."""
    node = Cluster(
        tmp_path_factory.mktemp("real-tls"),
        nodes=1,
        model=real_model,
        cluster={"secret": SECRET, "tls": "on"},
    )
    try:
        node.start_node(0)
        node.wait_ready(deadline=READY)
        yield node
    finally:
        node.close()


def test_a_chat_goes_through_the_gateway(cluster: Cluster):
    question = [{"role": "user", "content": "Why do fish swim in schools?"}]
    body = {"model": MODEL, "messages": question, "max_tokens": 24, "temperature": 0}
    whole = cluster.chat(0, **body)
    assert whole.status_code == 200, whole.text
    with cluster.http.stream(
        "POST", cluster.url(0, "/v1/chat/completions"), json=body | {"stream": True}
    ) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == whole.json()["choices"][0]["message"]["content"]
    assert "fish" in text.lower()


def test_every_route_of_vllm_refuses_a_client_without_the_clusters_certificate(
    cluster: Cluster, tmp_path: Path
):
    (engine,) = cluster.member(0, 0)["engines"]
    port = int(engine["port"])
    ours = with_certificate(tmp_path, Authority("shoal", SECRET))
    (record,) = cluster.engine_records(0)
    log = Path(record.log)
    # Its own list at its start, its OpenAPI document, and WebSockets, which only the former names.
    routes = {
        (path, method)
        for path, methods in _ROUTE.findall(log.read_text(errors="replace"))
        for method in (methods or "GET").replace(" ", "").split(",")
    }
    described = json.loads(asked(port, "/openapi.json", ours).partition(b"\r\n\r\n")[2])["paths"]
    routes |= {(path, method.upper()) for path, operations in described.items() for method in operations}
    assert {"/v1/chat/completions", "/invocations", "/metrics", "/health"} <= {path for path, _ in routes}
    assert len({path for path, _ in routes}) > 20
    routes |= {(path, method) for path in NONSENSE for method in ("GET", "POST")}

    reached = log.read_text(errors="replace").count('HTTP/1.1"')
    strangers = {
        "no certificate": without_certificate(),
        "another secret": with_certificate(tmp_path, Authority("shoal", "another" + SECRET)),
    }
    for path, method in sorted(routes):
        for who, context in strangers.items():
            with pytest.raises(RefusedError):
                pytest.fail(f"{who} got {asked(port, path, context, method=method)!r} of {method} {path}")
        try:
            assert asked(port, path, None, method=method) == b"", f"plain HTTP: {method} {path}"
        except RefusedError:
            continue
    assert log.read_text(errors="replace").count('HTTP/1.1"') == reached, (
        "nothing of it is in vLLM's access log"
    )
    assert asked(port, "/nowhere", ours).startswith(b"HTTP/1.1 404")
    assert log.read_text(errors="replace").count('HTTP/1.1"') == reached + 1, "which tells requests"
