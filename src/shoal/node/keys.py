"""The node's API keys: read from the configuration and from the file of keys, which is watched."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from shoal.config import ConfigError
from shoal.config.keys import KeyEntry, Keys
from shoal.config.keys_file import keys_in, read_bytes
from shoal.gateway.key_cells import KeyCells
from shoal.gateway.keys import MAX_KEYS, Key, KeyTable, digest_of
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.key_usage import KeyAccounts

WATCH_INTERVAL = 0.25
"""Seconds between two looks at the file of keys: a change must be in force within a second on a busy machine, too."""

AGENT = "(node)"
"""Whose key the node's own is, in metrics. No key of a file can be called so."""

_FRESH = 1.0  # s: a file so young may change again without looking different
_MOST_NAMED = 10  # keys named in an event


class KeySlots:
    """Gives every key its place in the shared map, by name: a new key under an old name goes on with its limits.

    A place that is free again is the last to be given away: requests of its former key may still be open.

    Args:
        on_new: called with a place that another key gets.
    """

    def __init__(self, on_new: Callable[[int], None] = lambda _: None) -> None:
        self._on_new = on_new
        self._free = deque(range(MAX_KEYS))
        self._slots: dict[str, int] = {}

    def assign(self, names: Iterable[str]) -> dict[str, int]:
        """Return the places of exactly these keys."""
        wanted = list(dict.fromkeys(names))
        for name in self._slots.keys() - set(wanted):
            self._free.append(self._slots.pop(name))
        for name in wanted:
            if name not in self._slots:
                self._slots[name] = self._free.popleft()
                self._on_new(self._slots[name])
        return dict(self._slots)


class _Found(NamedTuple):
    """A version of the file of keys."""

    looks: tuple[int, ...] | None
    content: bytes | None
    entries: tuple[KeyEntry, ...]


_NOTHING = _Found(None, None, ())


class NodeKeys:
    """The keys of a node, and the news about them.

    Args:
        settings: the configuration's.
        events: gets a sentence when keys change or a change cannot be used.
        cells: shared with the workers.
        scrape: digest of the key for metrics, ``b""`` for none.
        on_change: called with the keys, now and whenever there are others; None where the gateway asks for none.

    Raises:
        StartError: the file of keys cannot be used.

    Attributes:
        table: the keys in force.
        accounts: of them.
        agent_secret: what the node itself shows its own gateway, see `KeyTable.agent`; another one in each process.
    """

    def __init__(
        self,
        settings: Keys,
        events: Events,
        cells: KeyCells,
        on_change: Callable[[KeyTable | None], None],
        scrape: bytes = b"",
    ) -> None:
        self._scrape = scrape
        self.table: KeyTable | None = None
        self.agent_secret = secrets.token_hex(32)
        self.accounts = KeyAccounts(cells)
        self._slots = KeySlots(cells.refill)
        self._events = events
        self._on_change = on_change
        self._found = _NOTHING
        self._told = ""
        try:
            self.configure(settings)
        except ConfigError as error:
            raise StartError(str(error)) from error

    def configure(self, settings: Keys) -> None:
        """Take other settings; the file is read at once.

        Raises:
            ConfigError: the file cannot be used; everything stays as it is.
        """
        self._found = (settings.file and self._read(settings.file)) or _NOTHING
        self._settings = settings
        self._publish()

    async def watch(self) -> None:
        """Take what the file says whenever it has changed, for ever."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            path = self._settings.file
            if path is None:
                continue
            try:
                # A thread, since a file on a network may take its time.
                found = await asyncio.to_thread(self._read, path, self._found)
            except ConfigError as error:
                self._refuse(error)
            else:
                if path == self._settings.file:
                    self._take(found, path)

    def look(self) -> None:
        """Take what the file says if it has changed.

        A file that cannot be used changes nothing: the last good keys stay in force, and why is told once.
        """
        path = self._settings.file
        if path is not None:
            try:
                self._take(self._read(path, self._found), path)
            except ConfigError as error:
                self._refuse(error)

    @staticmethod
    def _read(path: Path, before: _Found = _NOTHING) -> _Found:
        """Return the file as it is now; `before` itself where it looks the same."""
        looks = _looks_of(path)
        if looks is not None and looks == before.looks:
            return before
        content = read_bytes(path)
        if content == before.content:
            return _Found(looks, content, before.entries)
        return _Found(looks, content, keys_in(content, str(path)))

    def _take(self, found: _Found, path: Path) -> None:
        before, self._found = self._found, found
        if found.entries != before.entries:
            self._publish()
            self._events.add(f"API keys: {_difference(before.entries, found.entries)}")
        elif self._told and found is not before:
            self._events.add(f"API keys: {path} is right again, {_count(len(found.entries))}")
        if found is not before:
            self._told = ""

    def _refuse(self, error: ConfigError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            self._events.add(f"API keys: the former ones stay in force: {error}", "error")

    def _publish(self) -> None:
        self.table = self._make_table() if self._settings.wanted else None
        self.accounts.replace(self.table)
        self._on_change(self.table)

    def _make_table(self) -> KeyTable:
        settings = self._settings
        plain = [
            (f"{kind}[{i}]", digest_of(secret.encode()), kind == "admin_keys")
            for kind, given in (("api_keys", settings.api_keys), ("admin_keys", settings.admin_keys))
            for i, secret in enumerate(given)
        ]
        names = [name for name, *_ in plain] + [e.name for e in self._found.entries]
        slots = self._slots.assign([*names, AGENT])
        keys = [Key(name=name, digest=digest, slot=slots[name], admin=admin) for name, digest, admin in plain]
        keys += [_key(entry, slots[entry.name]) for entry in self._found.entries]
        agent = Key(name=AGENT, digest=digest_of(self.agent_secret.encode()), slot=slots[AGENT])
        return KeyTable(
            keys=tuple(keys), open_metrics=settings.metrics == "open", scrape=self._scrape, agent=agent
        )


def _key(entry: KeyEntry, slot: int) -> Key:
    return Key(
        name=entry.name,
        digest=bytes.fromhex(entry.hash),
        slot=slot,
        admin=entry.role == "admin",
        models=None if entry.models is None else frozenset(entry.models),
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
        max_concurrent=entry.max_concurrent,
        priority=entry.priority,
        expires=entry.expires.timestamp() if entry.expires is not None else None,
    )


def _looks_of(path: Path) -> tuple[int, ...] | None:
    """Return what tells one version of a file from another, None where nothing does for certain."""
    try:
        found = os.stat(path)  # noqa: PTH116 - microseconds matter little, but the path may be anything
    except OSError:
        return None
    if time.time() - found.st_mtime < _FRESH:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _difference(before: tuple[KeyEntry, ...], after: tuple[KeyEntry, ...]) -> str:
    """Return what has changed, as in ``2 keys in force; new: a; revoked: b``."""
    old, new = ({entry.name: entry for entry in entries} for entries in (before, after))
    parts = [_count(len(after))]
    for word, names in (
        ("new", new.keys() - old.keys()),
        ("revoked", old.keys() - new.keys()),
        ("changed", {name for name in new.keys() & old.keys() if new[name] != old[name]}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:_MOST_NAMED])
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            parts.append(f"{word}: {shown}{more}")
    return "; ".join(parts)


def _count(keys: int) -> str:
    return f"{keys} key{'s' * (keys != 1)} in force"
