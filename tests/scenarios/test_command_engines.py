"""Any program that speaks the OpenAI API is an engine: started, watched, balanced, restarted."""

import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from support.cluster import Cluster
from support.wait import wait_until

Make = Callable[..., Cluster]
SERVER = Path(__file__).parents[1] / "support" / "small_server.py"
MODEL: dict[str, Any] = {
    "name": "sim-model",
    "engine": "command",
    "command": f"{sys.executable} {SERVER} --host {{host}} --port {{port}} --name={{name}}",
    "health": "/ready",
}
SECRET = {"secret": "0123456789abcdef", "tls": "on"}


def client(cluster: Cluster, index: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=cluster.url(index, "/v1"), api_key="unused", max_retries=0)


def answer(cluster: Cluster, index: int = 0) -> str:
    reply = cluster.chat(index, "one two three")
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def test_a_program_is_balanced_over_nodes_and_restarted_when_it_is_killed(make_cluster: Make):
    cluster = make_cluster(nodes=2, model=MODEL).start()
    engines = {cluster.chat(0, "a b").headers["x-shoal-engine"] for _ in range(8)}
    assert len(engines) == 2
    stream = client(cluster, 1).chat.completions.create(
        model="sim-model", messages=[{"role": "user", "content": "one two three"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "three two one "
    killed = cluster.kill_engine(0)
    for _ in range(10):
        assert answer(cluster, 0) == "three two one"  # by the other one, through the same gateway
    wait_until(
        lambda: [p.pid for p in cluster.engine_processes(0)] not in ([], [killed]), 15, "a new process"
    )
    cluster.wait_ready(2)
    assert any("signal 9" in e or "SIGKILL" in e for e in cluster.events(0)), cluster.events(0)


def test_a_program_that_hangs_is_killed_and_restarted(make_cluster: Make):
    cluster = make_cluster(
        nodes=1,
        model=MODEL,
        recovery={"stall_timeout": 1.5, "restart_delay": 0.2},
        engines={"probe_interval": 0.2, "probe_timeout": 0.5},
        communication={"timeout": 5},
    ).start()
    hung = cluster.engine_processes(0)[0]
    hung.send_signal(signal.SIGSTOP)
    wait_until(
        lambda: [p.pid for p in cluster.engine_processes(0)] not in ([], [hung.pid]), 20, "a new process"
    )
    cluster.wait_ready(1)
    assert answer(cluster) == "three two one"


def test_behind_tls_a_program_is_closed_to_strangers_and_goes_with_its_front(make_cluster: Make):
    cluster = make_cluster(nodes=1, model=MODEL, cluster=SECRET).start()
    assert answer(cluster) == "three two one"
    engine = cluster.member(0, 0)["engines"][0]
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((engine["host"], engine["port"]), timeout=5) as plain,
        pytest.raises(OSError),
        stranger.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1) == b""  # TLS 1.3 tells with the first read
        raise ConnectionResetError
    front = cluster.engine_processes(0)[0]
    (program,) = front.children()
    program.kill()
    wait_until(
        lambda: [p.pid for p in cluster.engine_processes(0)] not in ([], [front.pid]), 15, "a new front"
    )
    cluster.wait_ready(1)
    front = cluster.engine_processes(0)[0]
    (program,) = front.children()
    assert cluster.stop_node(0) == 0
    assert not psutil.pid_exists(front.pid)
    assert not psutil.pid_exists(program.pid)


def test_a_program_that_is_not_there_is_told_before_anything_starts(make_cluster: Make):
    cluster = make_cluster(nodes=1, model=MODEL | {"command": "no-such-program --port {port}"})
    assert cluster.start_node(0).wait(20) != 0
    assert "there is no program no-such-program on this machine" in cluster.output(0)
