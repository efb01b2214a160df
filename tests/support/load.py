"""Bounded load on a cluster: clients in threads that ask one question after the other and keep what went wrong."""

import threading
import time
from collections import Counter
from types import TracebackType

import httpx

from support.cluster import Cluster


class Load:
    """Asks the given nodes from `clients` threads while the `with` block runs, for `limit` seconds at most.

    Attributes:
        answers: good answers by the engine that gave them.
        failures: (seconds since the start, what went wrong) of every request that failed.
    """

    def __init__(self, cluster: Cluster, nodes: list[int], clients: int = 8, limit: float = 60) -> None:
        self.cluster, self.nodes, self.clients, self.limit = cluster, nodes, clients, limit
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
        node = self.nodes[number % len(self.nodes)]
        url = self.cluster.url(node, "/v1/chat/completions")
        with httpx.Client(timeout=30, trust_env=False) as http:
            turn = 0
            while not self._stop.is_set() and self.elapsed() < self.limit:
                turn += 1
                messages = [{"role": "user", "content": f"client {number} turn {turn}"}]
                body = {"model": "sim-model", "messages": messages, "max_tokens": 16}
                try:
                    reply = http.post(url, json=body)
                    problem = "" if reply.status_code == 200 else f"{reply.status_code} {reply.text}"
                    if not problem and not reply.json()["choices"][0]["message"]["content"]:
                        problem = f"empty answer: {reply.text}"
                except httpx.HTTPError as error:
                    problem = repr(error)
                with self._lock:
                    if problem:
                        self.failures.append((self.elapsed(), problem))
                    else:
                        self.answers[reply.headers["x-shoal-engine"]] += 1
