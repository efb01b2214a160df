"""Bounded load on a cluster: clients in threads that ask one question after the other and keep what went wrong."""

import threading
import time
from collections import Counter
from http.client import HTTPException
from types import TracebackType

import httpx

from support.cluster import Cluster
from support.lean import LeanClient


class Load:
    """Asks the given nodes from `clients` threads while the `with` block runs, for `limit` seconds at most.

    The last `streams` of the clients ask for streams, of `STREAM` tokens each. Each client waits `pause` seconds
    between two questions: load that lasts long need not be heavy.

    Attributes:
        answers: good answers by the engine that gave them.
        failures: (seconds since the start, what went wrong) of every request that failed.
        streamed: whole streams.
    """

    STREAM = 60

    def __init__(
        self,
        cluster: Cluster,
        nodes: list[int],
        *,
        clients: int = 8,
        limit: float = 60,
        streams: int = 0,
        pause: float = 0.0,
        model: str = "sim-model",
    ) -> None:
        self.cluster, self.nodes, self.clients, self.limit = cluster, nodes, clients, limit
        self.model = model
        self.streams, self.pause = streams, pause
        self.streamed = 0
        self.answers: Counter[str] = Counter()
        self.failures: list[tuple[float, str]] = []
        self.began = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Load":
        self.began = time.monotonic()
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def count(self) -> int:
        return sum(self.answers.values())

    def _client(self, number: int) -> None:
        if number >= self.clients - self.streams:
            self._stream(number)
            return
        node = self.nodes[number % len(self.nodes)]
        with LeanClient(self.cluster.names[node]) as http:
            turn = 0
            while not self._stop.wait(self.pause) and self.elapsed() < self.limit:
                turn += 1
                messages = [{"role": "user", "content": f"client {number} turn {turn}"}]
                body = {"model": self.model, "messages": messages, "max_tokens": 16}
                try:
                    reply = http.post("/v1/chat/completions", body)
                    problem = "" if reply.status == 200 else f"{reply.status} {reply.text}"
                    if not problem and not reply.json()["choices"][0]["message"]["content"]:
                        problem = f"empty answer: {reply.text}"
                except (OSError, HTTPException) as error:
                    problem = repr(error)
                with self._lock:
                    if problem:
                        self.failures.append((self.elapsed(), problem))
                    else:
                        self.answers[reply.headers["x-shoal-engine"]] += 1

    def _stream(self, number: int) -> None:
        url = self.cluster.url(self.nodes[number % len(self.nodes)], "/v1/completions")
        body = {"model": self.model, "max_tokens": self.STREAM, "stream": True, "ignore_eos": True}
        body["stream_options"] = {"include_usage": True}
        usage = f'"completion_tokens":{self.STREAM}'
        with httpx.Client(timeout=30, trust_env=False) as http:
            turn = 0
            while not self._stop.wait(self.pause) and self.elapsed() < self.limit:
                turn += 1
                events: list[str] = []
                try:
                    with http.stream("POST", url, json=body | {"prompt": f"{number} {turn}"}) as reply:
                        engine = reply.headers.get("x-shoal-engine", "")
                        events = [line for line in reply.iter_lines() if line.startswith("data: ")]
                    told = "".join(events[-2:-1]).replace(" ", "")  # the usage comes before the end
                    whole = reply.status_code == 200 and events[-1:] == ["data: [DONE]"] and usage in told
                    problem = "" if whole else f"{reply.status_code}, {len(events)} events, {events[-2:]}"
                except httpx.HTTPError as error:
                    problem = repr(error)
                with self._lock:
                    if problem:
                        self.failures.append((self.elapsed(), f"stream: {problem}"))
                    else:
                        self.streamed += 1
                        self.answers[engine] += 1
