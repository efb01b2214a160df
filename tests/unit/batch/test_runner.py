"""Lines of a batch wait as long as there is no room for any."""

import asyncio
import json
import time
from pathlib import Path

from shoal.batch.lines import Line
from shoal.batch.records import BatchRecord
from shoal.batch.runner import Paths, Runner
from shoal.batch.sender import Answer


class Desk:
    """A batch of five lines, one of them bad."""

    def __init__(self, directory: Path, *, expires: float = 60.0) -> None:
        self.room = 0
        self.sent: list[str] = []
        self.failed = asyncio.Event()
        self.paths = Paths(directory / "in", directory / "out", directory / "errors")
        lines = [
            json.dumps({"custom_id": f"r{n}", "method": "POST", "url": "/v1/completions", "body": {}})
            for n in range(4)
        ]
        self.paths.input.write_text("\n".join(["no line", *lines]) + "\n")
        now = time.time()
        record = BatchRecord(
            id="batch_1",
            created_at=int(now),
            owner="a",
            holders=("a",),
            endpoint="/v1/completions",
            input_file_id="file-1",
            output_file_id="file-2",
            error_file_id="file-3",
            completion_window="24h",
            expires_at=int(now + expires),
        )
        self.runner = Runner(
            record, self.paths, send=self.send, room=lambda: self.room, longest=1000, changed=self.changed
        )

    async def send(self, endpoint: str, line: Line, key: str) -> Answer:
        self.sent.append(line.custom_id)
        return Answer(200, "", b'{"usage": null}')

    async def changed(self, record: BatchRecord, status: bool) -> None:
        if record.failed:
            self.failed.set()


def test_nothing_is_sent_without_room_and_all_of_it_once_there_is_some(tmp_path: Path) -> None:
    async def test() -> None:
        desk = Desk(tmp_path)
        running = asyncio.create_task(desk.runner.run())
        await asyncio.wait_for(desk.failed.wait(), 30)  # the bad line needs no room
        assert desk.sent == []
        desk.room = 2
        assert await asyncio.wait_for(running, 30) == "completed"
        assert desk.sent == ["r0", "r1", "r2", "r3"]

    asyncio.run(test())


def test_a_batch_expires_without_room_too(tmp_path: Path) -> None:
    async def test() -> None:
        desk = Desk(tmp_path, expires=1.0)
        assert await asyncio.wait_for(desk.runner.run(), 30) == "expired"
        assert desk.sent == []
        assert len(desk.paths.errors.read_text().splitlines()) == 5

    asyncio.run(test())
