"""The fake engine and the load generator against each other: what one sends the other counts."""

import io
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from benchmarks.gateway.install import compiled
from benchmarks.gateway.load import Load, chat_request
from benchmarks.gateway.processes import Command, Running
from benchmarks.gateway.run import free_ports

from support.wait import wait_until

CORES = [*os.sched_getaffinity(0)]
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def load(cache: Path) -> Load:
    return Load(compiled("load", cache, io.StringIO()), CORES)


@pytest.fixture
def port(cache: Path, tmp_path: Path) -> Iterator[int]:
    number = free_ports(1)[0]
    program = compiled("engine", cache, io.StringIO())
    running = Running("engine", Command([str(program), str(number)]), CORES, tmp_path)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", number)) == 0

    try:
        wait_until(listens, 5)
        yield number
    finally:
        running.stop()


def request(folder: Path, size: int = 1024, stream: str | None = None) -> Path:
    file = folder / "request"
    file.write_bytes(chat_request(size, stream))
    return file


def test_every_request_sent_is_answered_and_counted(port: int, load: Load, tmp_path: Path) -> None:
    loaded = load.requests(port, request(tmp_path), 8, 0.2, 5)
    assert loaded.completed == loaded.sent > 8
    assert loaded.failed == 0
    assert 0 < loaded.p50 <= loaded.p99
    assert 0.2 <= loaded.seconds < 2


def test_large_bodies_are_taken_whole(port: int, load: Load, tmp_path: Path) -> None:
    loaded = load.requests(port, request(tmp_path, 200_000), 4, 0.1, 5)
    assert loaded.completed == loaded.sent > 0


@pytest.mark.parametrize("rate", [0, 500])
def test_events_are_counted_exactly(port: int, load: Load, tmp_path: Path, rate: int) -> None:
    loaded = load.streams(port, request(tmp_path, stream=f"events=100 rate={rate} hold=0"), 5, 100, 5)
    assert (loaded.completed, loaded.failed, loaded.open) == (5, 0, 0)
    assert loaded.events == 5 * (100 + 1)  # and [DONE]


def test_a_pace_is_kept(port: int, load: Load, tmp_path: Path) -> None:
    loaded = load.streams(port, request(tmp_path, stream="events=41 rate=100 hold=0"), 3, 0, 5)
    assert 0.4 <= loaded.seconds < 1.5
    assert 10_000 <= loaded.gap_p99 < 1_000_000


def test_streams_that_do_not_end_in_time_are_open_not_failed(port: int, load: Load, tmp_path: Path) -> None:
    loaded = load.streams(port, request(tmp_path, stream="events=1000 rate=10 hold=0"), 3, 0, 0.5)
    assert (loaded.completed, loaded.failed, loaded.open) == (0, 0, 3)


def test_streams_are_held_open(port: int, load: Load, tmp_path: Path) -> None:
    file = request(tmp_path, stream="events=5 rate=100 hold=1")
    with load.hold(port, file, 20, events=4, limit=5) as held:
        assert (held.open, held.failed, held.events) == (20, 0, 80)
        running = httpx.get(f"http://127.0.0.1:{port}/metrics", verify=False).text
        assert 'vllm:num_requests_running{engine="0",model_name="bench"} 20' in running
    wait_until(lambda: '"} 20' not in httpx.get(f"http://127.0.0.1:{port}/metrics", verify=False).text, 5)


def test_a_port_nobody_listens_on_fails_at_once(load: Load, tmp_path: Path) -> None:
    loaded = load.requests(free_ports(1)[0], request(tmp_path), 4, 0.1, 5)
    assert (loaded.completed, loaded.failed) == (0, 4)
    assert loaded.error == "Connection refused"
    assert loaded.seconds < 2


def test_other_answers_than_200_count_as_failed(port: int, load: Load, tmp_path: Path) -> None:
    file = tmp_path / "request"
    file.write_bytes(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n")
    loaded = load.requests(port, file, 1, 0.05, 5)
    assert (loaded.completed, loaded.failed) == (0, loaded.sent)
    assert loaded.error == "status 404"


def test_the_engine_looks_like_vllm_to_routers(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").json()["data"][0]["id"] == "bench"
        body = {"model": "bench", "messages": [{"role": "user", "content": "hi"}]}
        answer = client.post("/v1/chat/completions", json=body)
        assert len(answer.content) == 600
        assert answer.json()["choices"][0]["message"]["content"]
        chunks = iter([b'{"messages": [],', b' "stream": false}'])
        assert client.post("/v1/chat/completions", content=chunks).status_code == 200
        ids = client.post("/v1/chat/completions", json=body | {"stream": True, "return_token_ids": True}).text
        assert '"token_ids":[' in ids
        assert ids.endswith("data: [DONE]\n\n")
