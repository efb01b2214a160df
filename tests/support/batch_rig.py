"""Several nodes' batches in one process: real stores and data files, requests between nodes without a network."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from shoal.batch.channel import Channel
from shoal.batch.cluster import Cluster, Peer
from shoal.batch.desk import Caller
from shoal.batch.lines import Line
from shoal.batch.records import BatchRecord, FileRecord
from shoal.batch.sender import Answer
from shoal.batch.service import Batches, Settings

URL = "/v1/completions"
ME = Caller()


def line(number: int) -> bytes:
    fields = {"custom_id": f"r{number}", "method": "POST", "url": URL, "body": {"n": number}}
    return json.dumps(fields).encode() + b"\n"


class Model:
    """Answers requests, and counts them; may be held back."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str]] = []
        self.gate = asyncio.Event()
        self.allowed = 1 << 60  # requests answered before it holds the others back

    async def answer(self, node: str, line: Line, key: str) -> Answer:
        number = json.loads(line.body)["n"]
        self.asked.append((node, number, key))
        if len(self.asked) > self.allowed:
            await self.gate.wait()
        body = {"id": f"c{number}", "n": number, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
        return Answer(200, "", json.dumps(body).encode())


class Node:
    """One node."""

    def __init__(self, rig: Rig, name: str, settings: Settings) -> None:
        self.rig, self.name, self.settings = rig, name, settings
        self.directory = rig.directory / name
        self.incarnation = 0
        self.up = False
        self.notices: list[str] = []

    def start(self) -> Node:
        self.incarnation += 1
        rig = self.rig
        channel = _Channel(rig, self.name)
        self.batches = Batches(
            self.directory,
            self.settings,
            cluster=lambda: rig.seen_by(self.name),
            channel=channel,
            sender=_Sender(rig, self.name),  # type: ignore[arg-type]
            room=lambda: 4,
            notice=lambda text, _: self.notices.append(text),
        )
        self.app = httpx.ASGITransport(app=self.batches.peer_app())
        self.api = httpx.AsyncClient(transport=self.app, base_url="http://node")
        self.up = True
        return self

    async def kill(self) -> None:
        """End at once, as far as one process can do that to a part of itself."""
        self.up = False
        await self.batches.stop()
        await self.batches.close()
        await self.api.aclose()

    @property
    def library(self) -> Any:
        return self.batches._library

    async def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            await self.batches._guard._round()

    async def upload(self, content: bytes, purpose: str = "batch", **more: Any) -> FileRecord:
        reply = await self.api.post(
            "/v1/files", data={"purpose": purpose}, files={"file": ("in.jsonl", content)}, **more
        )
        assert reply.status_code == 200, reply.text
        return await self.library.local(reply.json()["id"])

    async def create(self, file: FileRecord, window: str = "24h") -> dict[str, Any]:
        body = {"input_file_id": file.id, "endpoint": URL, "completion_window": window}
        reply = await self.api.post("/v1/batches", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def batch(self, id_: str) -> dict[str, Any]:
        return (await self.api.get(f"/v1/batches/{id_}")).json()

    async def output(self, id_: str) -> list[dict[str, Any]]:
        found = await self.batch(id_)
        text = (await self.api.get(f"/v1/files/{found['output_file_id']}/content")).text
        return [json.loads(each) for each in text.splitlines()]

    def owns(self, record: BatchRecord) -> bool:
        return record.owner == self.name


class Rig:
    """Some nodes.

    Attributes:
        cut: pairs of nodes that do not hear each other.
    """

    def __init__(self, directory: Path, names: str = "abc", **settings: Any) -> None:
        self.directory = directory
        self.model = Model()
        self.cut: set[frozenset[str]] = set()
        self.isolated: set[str] = set()
        self.full: set[str] = set()
        given = {"copies": 2, "takeover_after": 0.0, "repair_after": 1000.0, "max_file": 1 << 30}
        made = Settings(**given | {"max_line": 1 << 20} | settings)
        self.nodes = {name: Node(self, name, made).start() for name in names}

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def hears(self, one: str, other: str) -> bool:
        return self.nodes[other].up and frozenset((one, other)) not in self.cut

    def seen_by(self, me: str) -> Cluster:
        peers = tuple(
            Peer(name, self.hears(me, name), node.incarnation, f"http://{name}")
            for name, node in self.nodes.items()
            if name != me
        )
        return Cluster(me, me in self.isolated, peers)

    async def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            for node in self.nodes.values():
                if node.up:
                    await node.rounds()

    async def until(self, condition: Any, seconds: float = 10.0) -> Any:
        """Let the nodes do their rounds until an awaitable condition holds."""
        async with asyncio.timeout(seconds):
            while not (found := await condition()):
                await self.rounds()
                await asyncio.sleep(0.01)
        return found

    async def ended(self, by: str, id_: str, status: str = "completed") -> dict[str, Any]:
        async def has_ended() -> Any:
            found = await self[by].batch(id_)
            return found if found.get("status") == status else None

        return await self.until(has_ended)

    async def close(self) -> None:
        for node in self.nodes.values():
            if node.up:
                await node.kill()


class _Channel(Channel):
    """Requests go to the other node's application; a node that is down or cut off refuses."""

    def __init__(self, rig: Rig, me: str) -> None:
        super().__init__(me, lambda _: None, None)
        self._rig = rig

    def _client(self, authority: str) -> httpx.AsyncClient:
        rig, me = self._rig, self._me

        class Way(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                other = urlsplit(str(request.url)).hostname or ""
                if not rig.hears(me, other):
                    raise httpx.ConnectError("refused")
                if other in rig.full and request.method == "PUT":
                    return httpx.Response(507, json={})
                return await rig.nodes[other].app.handle_async_request(request)

        return httpx.AsyncClient(transport=Way())


class _Sender:
    def __init__(self, rig: Rig, name: str) -> None:
        self._rig, self._name = rig, name

    async def send(self, _: str, line: Line, key: str) -> Answer:
        return await self._rig.model.answer(self._name, line, key)

    async def close(self) -> None:
        pass


def require_each_once(found: list[dict[str, Any]], lines: int) -> None:
    assert sorted(int(r["custom_id"][1:]) for r in found) == list(range(lines))
    assert all(r["response"]["body"]["n"] == int(r["custom_id"][1:]) for r in found)
