"""Probes against small HTTP servers that answer as vLLM 0.32 was seen to answer."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import pytest

from shoal.engine.probe import Probe, ProbeError, ServedModel
from unit.engine.fakes import DATA

T = TypeVar("T")
NO_ROUTE = (404, {"detail": "Not Found"})
NO_MODEL = (
    404,
    {"error": {"message": "The model `m` does not exist. Valid aliases: x.", "type": "NotFoundError"}},
)
MODELS = (200, {"object": "list", "data": [{"id": "m", "max_model_len": 2048, "parent": None, "root": "/m"}]})
COMPLETION = (200, {"choices": [{"text": "a"}]})


class Server:
    """Answers by path, and remembers what it was asked."""

    def __init__(self, routes: dict[str, tuple[int, Any]]) -> None:
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else {}
                outer.asked.append((self.path, body, self.headers.get("authorization")))
                status, content = routes.get(self.path, NO_ROUTE)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


@contextmanager
def serving(**routes: tuple[int, Any]) -> Iterator[Server]:
    server = Server({"/" + name.replace("__", "/"): answer for name, answer in routes.items()})
    thread = threading.Thread(target=lambda: server.http.serve_forever(0.01))
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def ask(url: str, question: Callable[[Probe], Awaitable[T]], timeout: float = 5.0, **options: Any) -> T:
    async def run() -> T:
        async with Probe(url, "m", timeout=timeout, **options) as probe:
            return await question(probe)

    return asyncio.run(run())


def test_a_healthy_engine_is_healthy_in_some_seconds() -> None:
    with serving(health=(200, b"")) as server:
        assert 0 < ask(server.url, Probe.health) < 5


def test_an_engine_that_says_it_is_dead_is_believed() -> None:
    with (
        serving(health=(503, b"")) as server,
        pytest.raises(ProbeError, match="answered /health with 503") as caught,
    ):
        ask(server.url, Probe.health)
    assert caught.value.status == 503


def test_nobody_there_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ProbeError, match="refused the connection for /health") as caught:
            ask(f"http://127.0.0.1:{unused.getsockname()[1]}", Probe.health)
    assert caught.value.status is None


def test_silence_ends_with_the_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ProbeError, match=r"gave no answer to /health within 0\.1 s"):
            ask(f"http://127.0.0.1:{silent.getsockname()[1]}", Probe.health, timeout=0.1)


def test_an_engine_that_hangs_up_is_told() -> None:
    with socket.socket() as rude:
        rude.bind(("127.0.0.1", 0))
        rude.listen()

        def hang_up() -> None:
            rude.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ProbeError, match="broke the connection for /health"):
            ask(f"http://127.0.0.1:{rude.getsockname()[1]}", Probe.health)
        thread.join()


def test_a_chat_model_computes_one_token() -> None:
    with serving(v1__completions=COMPLETION) as server:
        assert ask(server.url, Probe.canary) == "/v1/completions"
    assert server.asked[0][1] == {"model": "m", "prompt": "Hello", "max_tokens": 1, "temperature": 0}


@pytest.mark.parametrize(
    "endpoint", ["/v1/chat/completions", "/v1/embeddings", "/pooling", "/classify", "/v1/score"]
)
def test_models_of_other_kinds_are_asked_what_they_can_do(endpoint: str) -> None:
    with serving(**{endpoint[1:].replace("/", "__"): (200, {})}) as server:
        assert ask(server.url, Probe.canary) == endpoint


def test_the_endpoint_that_worked_is_used_from_then_on() -> None:
    async def twice(probe: Probe) -> None:
        await probe.canary()
        await probe.canary()

    with serving(v1__embeddings=(200, {})) as server:
        ask(server.url, twice)
    assert server.paths() == ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/embeddings"]


def test_a_model_no_canary_fits_has_to_be_listed() -> None:
    with serving(v1__models=MODELS) as server:
        assert ask(server.url, Probe.canary) == "/v1/models"


def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    other = (200, {"data": [{"id": "x"}]})
    with (
        serving(v1__completions=NO_MODEL, v1__models=other) as server,
        pytest.raises(ProbeError, match="does not serve m but x"),
    ):
        ask(server.url, Probe.canary)


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_a_canary_that_fails_says_why_and_nothing_else_is_tried(status: int) -> None:
    answer = (status, {"error": {"message": "EngineCore encountered\n an issue.", "type": "x"}})
    with (
        serving(v1__completions=answer) as server,
        pytest.raises(ProbeError, match=f"with {status}: EngineCore encountered an issue") as caught,
    ):
        ask(server.url, Probe.canary)
    assert caught.value.status == status
    assert server.paths() == ["/v1/completions"]


@pytest.mark.parametrize(
    "body", [b"", b"oops", b"[]", b'"x"', b'{"detail": "oops"}', b'{"error": "oops"}', b"\xff"]
)
def test_errors_of_every_form_are_told(body: bytes) -> None:
    with serving(v1__completions=(500, body)) as server, pytest.raises(ProbeError, match=r"with 500: ."):
        ask(server.url, Probe.canary)


def test_models_are_listed_with_their_lengths_and_adapters() -> None:
    lora = {"id": "m-lora", "parent": "m", "max_model_len": None, "unknown": [1]}
    listed = (200, {"data": [*MODELS[1]["data"], lora]})
    with serving(v1__models=listed) as server:
        assert ask(server.url, Probe.models) == (ServedModel("m", 2048), ServedModel("m-lora", None, "m"))


@pytest.mark.parametrize("body", [b"<html>", b'{"data": 5}', b"[]"])
def test_a_list_of_models_that_is_none_is_told(body: bytes) -> None:
    with serving(v1__models=(200, body)) as server, pytest.raises(ProbeError, match="something else"):
        ask(server.url, Probe.models)


def test_load_is_read_from_the_metrics() -> None:
    with serving(metrics=(200, (DATA / "metrics.txt").read_bytes())) as server:
        load = ask(server.url, Probe.load)
    assert (load.running, load.waiting) == (8, 4)


def test_the_key_is_sent_and_a_path_in_front_is_kept() -> None:
    with serving(behind__this__health=(200, b"")) as server:
        ask(f"{server.url}/behind/this", Probe.health, api_key="k")
    assert server.asked == [("/behind/this/health", {}, "Bearer k")]


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with serving(health=(200, b"")) as server:
        ask(server.url, Probe.health)


def test_any_program_may_lack_what_vllm_has_and_have_its_own_health() -> None:
    answers = {
        "ready": (200, b""),
        "v1__completions": (422, {"error": "no"}),
        "v1__chat__completions": COMPLETION,
    }
    with serving(**answers) as server:

        async def questions(probe: Probe) -> None:
            assert await probe.health() < 5
            assert await probe.models() == ()
            assert not (await probe.load()).counted
            assert await probe.canary() == "/v1/chat/completions"

        ask(server.url, questions, health="/ready", any_program=True)
    with serving(ready=(200, b"")) as server:
        assert ask(server.url, lambda p: p.canary(), health="/ready", any_program=True) == "/ready"
        with pytest.raises(ProbeError):
            ask(server.url, lambda p: p.load(), health="/ready")


def test_any_program_that_fails_has_failed() -> None:
    with serving(metrics=(500, {}), v1__completions=(500, {"error": "out of memory"})) as server:
        for question in (lambda p: p.load(), lambda p: p.canary(), lambda p: p.health()):
            with pytest.raises(ProbeError):
                ask(server.url, question, any_program=True)


def counted(keeps: bool, closes: bool = False) -> tuple[int, list[str]]:
    """Return the connections that a look at an engine takes, and what is asked.

    Args:
        keeps: the server says that it keeps connections.
        closes: it closes them all the same.
    """
    asked: list[str] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.read(10_000):
            asked.append(head.split()[1].decode())
            version = b"1.1" if keeps else b"1.0"
            writer.write(b"HTTP/" + version + b" 200 OK\r\ncontent-length: 0\r\n\r\n")
            if closes or not keeps:
                break
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()[:2]
            async with Probe(f"http://{host}:{port}", "m") as probe:
                for _ in range(2):
                    await probe.health(more=True)
                    if closes:
                        await asyncio.sleep(0)
                    await probe.load()

    asyncio.run(run())
    return connections, asked


def test_each_look_takes_one_new_connection() -> None:
    questions = ["/health", "/metrics"] * 2
    assert counted(keeps=True) == (2, questions)
    assert counted(keeps=False) == (4, questions)
    assert counted(keeps=True, closes=True) == (4, questions)
