"""A node's records in SQLite, and where its data files are. Synchronous: `Store.run` is for event loops.

What is here can be lost with the disk and with nothing else: a record is on the disk when `put` returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from shoal.batch.errors import disk_errors
from shoal.batch.records import BatchRecord, FileRecord, Record, decode, encode

P = ParamSpec("P")
T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    purpose TEXT NOT NULL,
    open INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    expires INTEGER,
    data BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_records ON records (id) WHERE open;
CREATE INDEX IF NOT EXISTS expiring_records ON records (expires) WHERE expires IS NOT NULL;
"""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are asked for.

    Attributes:
        kind: ``file`` or ``batch``.
        key: of this API key alone; None for all.
        purpose: files of this purpose alone; "" for all.
        after: those behind this id, in the order asked for; "" from the beginning.
        limit: so many at most.
        ascending: oldest first.
    """

    kind: str
    key: str | None = None
    purpose: str = ""
    after: str = ""
    limit: int = 20
    ascending: bool = False


class Store:
    """Records and data files of a node.

    Args:
        directory: made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._data = directory / "files"
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One thread has the database: what is asked for later sees what was put before.
        self.idle = False
        """There is certainly no unfinished batch."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch-store")
        self._db = self._thread.submit(self._open).result()

    def _open(self) -> sqlite3.Connection:
        with disk_errors(str(self.directory)):
            db = sqlite3.connect(self.directory / "batch.db", isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_SCHEMA)
        return db

    async def run(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what one of the methods below returns, without holding up the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: method(*args, **kwargs))

    def close(self) -> None:
        """Close the database."""
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()

    def path(self, file_id: str) -> Path:
        """Return where the content of a file is."""
        return self._data / file_id

    # In the store's thread.

    def get(self, id_: str) -> Record | None:
        """Return a record, None if there is none."""
        row = self._db.execute("SELECT data FROM records WHERE id = ?", (id_,)).fetchone()
        return None if row is None else decode(row[0])

    def put(self, record: Record) -> None:
        """Keep a record in the place of its former version."""
        is_open = isinstance(record, BatchRecord) and record.is_open
        purpose = record.purpose if isinstance(record, FileRecord) else ""
        expires = record.expires_at if isinstance(record, FileRecord) and not record.deleted else None
        kind = "file" if isinstance(record, FileRecord) else "batch"
        row = (
            record.id, kind, record.key, purpose, is_open, record.deleted, expires, encode(record)
        )  # fmt: skip
        with disk_errors(str(self.directory)):
            self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        if is_open:
            self.idle = False

    def remove(self, id_: str) -> None:
        """Forget a record and its content."""
        self._db.execute("DELETE FROM records WHERE id = ?", (id_,))
        self.path(id_).unlink(missing_ok=True)

    def find(self, query: Query) -> list[Record]:
        """Return the records asked for that are not deleted."""
        conditions, values = ["kind = ?", "NOT deleted"], [query.kind]
        for condition, value in (("key = ?", query.key), ("purpose = ?", query.purpose or None)):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if query.after:
            conditions.append("id > ?" if query.ascending else "id < ?")
            values.append(query.after)
        order = "ASC" if query.ascending else "DESC"
        text = f"SELECT data FROM records WHERE {' AND '.join(conditions)} ORDER BY id {order} LIMIT ?"
        return [decode(row[0]) for row in self._db.execute(text, (*values, query.limit))]

    def unfinished(self) -> list[BatchRecord]:
        """Return the batches somebody has to work on."""
        found = [decode(row[0]) for row in self._db.execute("SELECT data FROM records WHERE open")]
        self.idle = not found
        return [record for record in found if isinstance(record, BatchRecord)]

    def everything(self) -> list[Record]:
        """Return all records, those of deleted files, too."""
        return [decode(row[0]) for row in self._db.execute("SELECT data FROM records")]

    def expired(self, now: float) -> list[FileRecord]:
        """Return the files whose time is over."""
        rows = self._db.execute("SELECT data FROM records WHERE expires <= ?", (int(now),))
        found = [decode(row[0]) for row in rows]
        return [record for record in found if isinstance(record, FileRecord)]

    def strays(self) -> list[Path]:
        """Return data files that no record names: uploads that were broken off."""
        known = set()
        for record in self.everything():
            known.add(record.id)
            if isinstance(record, BatchRecord):
                known |= {record.output_file_id, record.error_file_id}
        return [path for path in self._data.iterdir() if path.name not in known]
