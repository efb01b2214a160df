"""Remembers what Shoal itself has copied: those files are to stay as they were."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from shoal.files import write_whole
from shoal.models.manifest import Manifest


class _Entry(msgspec.Struct, frozen=True):
    directory: str
    manifest: Manifest


class Copied:
    """Manifests of copied models, in a file.

    Args:
        store: the file; what cannot be read or written there is not remembered.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        try:
            self._entries = msgspec.json.decode(store.read_bytes(), type=dict[str, _Entry])
        except (OSError, msgspec.MsgspecError):
            self._entries = {}

    def manifest(self, model: str, directory: Path) -> Manifest | None:
        """Return what a model was when it was copied to a directory, None if it was not."""
        entry = self._entries.get(model)
        return entry.manifest if entry is not None and entry.directory == str(directory) else None

    def keep(self, model: str, directory: Path, manifest: Manifest) -> None:
        """Remember a copy."""
        self._entries[model] = _Entry(str(directory), manifest)
        with contextlib.suppress(OSError):
            write_whole(self._store, msgspec.json.encode(self._entries))
