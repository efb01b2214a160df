"""Bounded load on a cluster: clients in threads that ask one question after the other and keep what went wrong."""

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from typing import Self

import httpx

from support.cluster import Cluster
from support.lean import LeanClient


class Clients(ABC):
    """Threads that ask while the `with` block runs, for `limit` seconds at most.

    Args:
        count: how many there are.
        limit: seconds.
        pause: seconds that each waits between two questions.
    """

    def __init__(self, count: int, limit: float, pause: float) -> None:
        self.began = 0.0
        self._limit, self._pause = limit, pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(count)]

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def elapsed(self) -> float:
        """Return seconds since the start."""
        return time.monotonic() - self.began

    @abstractmethod
    def _client(self, number: int) -> None:
        """Ask, turn after turn."""

    def _turns(self) -> Iterator[int]:
        """Yield 1, 2, ... as long as there is to be asked."""
        turn = 0
        while not self._stop.wait(self._pause) and self.elapsed() < self._limit:
            turn += 1
            yield turn


class Load(Clients):
    """Asks the given nodes from `clients` threads and keeps what went wrong.

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
        super().__init__(clients, limit, pause)
        self.cluster, self.nodes, self.clients = cluster, nodes, clients
        self.model, self.streams = model, streams
        self.streamed = 0
        self.answers: Counter[str] = Counter()
        self.failures: list[tuple[float, str]] = []

    def count(self) -> int:
        return sum(self.answers.values())

    def _client(self, number: int) -> None:
        if number >= self.clients - self.streams:
            self._stream(number)
            return
        node = self.nodes[number % len(self.nodes)]
        with LeanClient(self.cluster.names[node]) as http:
            for turn in self._turns():
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
            for turn in self._turns():
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
