"""A cluster as people have it: three nodes that ask for API keys, and users that stream."""

import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from support.cluster import Cluster
from support.keys import secret

LONG = 300
"""Tokens of an answer that takes some seconds."""

_LIMIT = 500.0  # s that the load lasts at most


class Served:
    """Three nodes that ask for keys, and users that stream."""

    def __init__(self, directory: Path) -> None:
        model = {"path": "sim-model", "engine": "sim", "args": {"decode-ms": 20}}
        self.cluster = Cluster(directory, 3, model=model, gateway={"keys": {"file": "keys.yaml"}})
        self.admin, self.user = secret("ops").decode(), secret("anna").decode()
        entries = [("ops", "admin", self.admin), ("anna", "user", self.user)]
        keys = [
            {"name": name, "role": role, "hash": f"sha256:{sha256(key.encode()).hexdigest()}"}
            for name, role, key in entries
        ]
        self.cluster.write("keys.yaml", {"keys": keys})
        self.cluster.http.headers["authorization"] = f"Bearer {self.admin}"
        self._stop = threading.Event()
        self._users = [threading.Thread(target=self._use, args=(i,)) for i in range(4)]

    def start(self) -> None:
        for node in range(3):
            self.cluster.start_node(node)
        self.cluster.wait_ready(deadline=90)
        for user in self._users:
            user.start()

    def _use(self, number: int) -> None:
        """Stream one answer after the other; what fails is other tests' business."""
        end = time.monotonic() + _LIMIT
        headers = {"authorization": f"Bearer {self.user}"}
        with httpx.Client(headers=headers, timeout=30, trust_env=False) as http:
            while not self._stop.wait(0.2) and time.monotonic() < end:
                body = {"model": "sim-model", "prompt": f"user {number}", "max_tokens": 120, "stream": True}
                url = self.cluster.url(number % 3, "/v1/completions")
                try:
                    with http.stream("POST", url, json=body | {"ignore_eos": True}) as reply:
                        for _ in reply.iter_raw():
                            if self._stop.is_set():
                                return
                except httpx.HTTPError:
                    continue

    def answer(self, text: str) -> dict[str, Any]:
        """Return what the model answers at temperature 0."""
        reply = self.cluster.chat(2, text, max_tokens=LONG, temperature=0)
        found: dict[str, Any] = reply.json()
        return found

    def state(self, node: int) -> str:
        """Return what node 0 says of a node."""
        return str(self.cluster.member(0, node).get("state"))

    def restarts(self, node: int) -> int:
        """Return how often the node's engine was restarted."""
        engines = self.cluster.member(0, node).get("engines", [])
        return int(engines[0]["restarts"]) if engines else 0

    def close(self) -> None:
        self._stop.set()
        for user in self._users:
            if user.ident is not None:
                user.join()
        self.cluster.close()
