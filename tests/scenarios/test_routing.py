"""Where requests go, in real clusters with simulated engines."""

import contextlib
import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.cluster import Cluster
from support.wait import wait_until

pytestmark = pytest.mark.alone  # what arrives at the same moment must be sent at the same moment

Make = Callable[..., Cluster]
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
SLOW = {"decode-ms": 20}  # 8 tokens take 0.2 s: requests that come at the same time are open at the same time


def at_once(cluster: Cluster, nodes: Sequence[int], bodies: Sequence[bytes]) -> list[str]:
    """Send all bodies at the same moment, to the nodes in turn; return the engines that answered, in order."""
    with contextlib.ExitStack() as open_:
        ports = [cluster.ports[nodes[number % len(nodes)]] for number in range(len(bodies))]
        sockets = [open_.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for port in ports]
        for sock, body in zip(sockets, bodies, strict=True):
            sock.sendall(HEAD % len(body) + body)
        return [engine_of(sock) for sock in sockets]


def engine_of(sock: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    head = data.partition(b"\r\n\r\n")[0].decode()
    assert head.startswith("HTTP/1.1 200"), data
    return next(line.partition(": ")[2] for line in head.splitlines() if line.startswith("x-shoal-engine: "))


def body(*texts: str, tokens: int = 8) -> bytes:
    messages = [{"role": "user", "content": text} for text in texts]
    return json.dumps({"model": "sim-model", "messages": messages, "max_tokens": tokens}).encode()


def words(seed: object, size: int = 3000) -> str:
    return random.Random(str(seed)).randbytes(size // 2).hex()


@pytest.mark.parametrize(("gateways", "off"), [(1, 1), (3, 4)])
def test_64_requests_at_once_are_spread_evenly_by_least_connections(
    make_cluster: Make, gateways: int, off: int
):
    model = {"path": "sim-model", "engine": "sim", "policy": "least_connections", "args": SLOW}
    cluster = make_cluster(4, model=model).start()
    picked = Counter(at_once(cluster, range(gateways), [body(f"question {n}", tokens=32) for n in range(64)]))
    assert len(picked) == 4
    assert all(abs(count - 16) <= off for count in picked.values()), picked


def test_a_conversation_finds_its_engine_through_any_gateway(make_cluster: Make):
    """48 conversations begin at once: so their places follow from the load, and no gateway can guess them."""
    cluster = make_cluster(3, model={"path": "sim-model", "engine": "sim", "args": SLOW}).start()
    first = at_once(cluster, [0], [body(words(n, 8000)) for n in range(48)])
    assert max(Counter(first).values()) <= 2 * 48 / 3
    told = time.monotonic() + 0.5
    wait_until(
        lambda: time.monotonic() > told, 5, "what node 0 has learned is told ten times in half a second"
    )
    second = at_once(cluster, [1, 2], [body(words(n, 8000), "and then?") for n in range(48)])
    at_home = sum(a == b for a, b in zip(first, second, strict=True))
    assert at_home >= 38, f"{at_home} of 48 second turns went to the engine of the first"


def test_a_shared_system_prompt_does_not_pin_everything_to_one_engine(make_cluster: Make):
    cluster = make_cluster(3, model={"path": "sim-model", "engine": "sim", "args": SLOW}).start()
    system = words("system", 16_000)
    assert len(set(at_once(cluster, [0], [body(system, "warm up")]))) == 1
    picked = Counter(at_once(cluster, [0, 1, 2], [body(system, words(n, 200)) for n in range(60)]))
    assert max(picked.values()) <= 2 * 60 / 3
    assert min(picked.values()) >= 5


PACKAGE = """
class First:
    uses_load = False
    def __init__(self, seed):
        pass
    def pick(self, engines, in_flight, ask):
        return 0

class Raises(First):
    def pick(self, engines, in_flight, ask):
        raise KeyError(ask.session().decode())
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two policies, installed where nodes find it."""
    site = tmp_path / "site"
    info = site / "their_policies-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "their_policies.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policies\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[shoal.policies]\nfirst = their_policies:First\nraises = their_policies:Raises\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("package")
def test_a_users_policy_picks_and_one_that_raises_fails_no_request(make_cluster: Make):
    routing = {"policy": "first", "allow_override": True}
    cluster = make_cluster(2, routing=routing).start()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: cluster.chat(0, f"question {n}"), range(24)))
        assert {reply.headers["x-shoal-engine"] for reply in replies} == {f"{min(cluster.names)}/sim-model-0"}
        url = cluster.url(0, "/v1/chat/completions")
        headers = {
            "x-shoal-policy": "raises",
            "authorization": "Bearer k",
            "content-type": "application/json",
        }
        replies = list(
            pool.map(lambda _: cluster.http.post(url, content=body("hello"), headers=headers), range(24))
        )
    assert [reply.status_code for reply in replies] == [200] * 24
    assert len({reply.headers["x-shoal-engine"] for reply in replies}) == 2, "least_connections picks"
    told = [event for event in cluster.events(0) if "least_connections picks in its place" in event]
    assert len(told) == 1
    assert "the routing policy Raises failed (KeyError: 'Bearer k')" in told[0]
