"""The state directory of a node as one archive, and back. The node may run meanwhile.

The database is copied as SQLite does it, in one piece; data files only ever grow, and results that the copy of the
database knows nothing of are as good as any (`shoal.batch.results`). A node that is restored to an earlier state does
no harm: what others have taken over since has a higher generation.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from shoal import __version__
from shoal.node.lock import running_process

MANIFEST = "shoal-backup.json"
"""Name of the first member: what the archive is."""

FORMAT = 1
"""Of the archive."""

_LEFT_OUT = ("lock", "control.sock")
_PIECE = 1 << 20


class BackupError(Exception):
    """It cannot be done; ``str()`` says why, for people."""


def back_up(state_dirs: dict[str, Path], target: Path) -> dict[str, int]:
    """Write the state of nodes into an archive; return the bytes of each node's files.

    Args:
        state_dirs: state directory of each node, by its name.
        target: the archive, ``.tar.gz``. It appears when it is complete, for this user alone: private keys are in it.

    Raises:
        BackupError: there is nothing to back up, or no room.
    """
    there = {name: path for name, path in state_dirs.items() if path.is_dir()}
    if not there:
        looked = ", ".join(str(path) for path in state_dirs.values())
        raise BackupError(f"no node of the file has a state directory on this machine; looked for {looked}")
    new = target.with_name(f".{target.name}.new")
    sizes = dict.fromkeys(there, 0)
    try:
        with _private(new) as out, tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
            _add_bytes(archive, MANIFEST, _manifest(there))
            for name, directory in there.items():
                for path in _files(directory):
                    sizes[name] += _add(archive, path, f"{directory.name}/{path.relative_to(directory)}")
        new.replace(target)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise BackupError(f"{target} cannot be written: {error.strerror or error}") from error
    return sizes


def restore(archive_path: Path, state_dir: Path, directories: dict[str, Path], *, force: bool) -> list[str]:
    """Bring the nodes of an archive back; return their names.

    Args:
        archive_path: what `back_up` wrote.
        state_dir: of the cluster; each node has a directory in it.
        directories: state directory of each node that may be restored, by its name.
        force: replace what a node has now.

    Raises:
        BackupError: it is no such archive or damaged, or a node runs or has state already. Nothing has changed then.
    """
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=state_dir, prefix=".restore-") as staging:
        try:
            with tarfile.open(archive_path, "r:gz") as archive:
                manifest = _read_manifest(archive)
                archive.extractall(staging, filter="data")
        except (OSError, tarfile.TarError, EOFError, ValueError, zlib.error) as error:
            raise BackupError(f"{archive_path} is no complete backup: {error}") from error
        names = [name for name in manifest["nodes"] if name in directories]
        if not names:
            listed = ", ".join(manifest["nodes"])
            raise BackupError(
                f"{archive_path} has the state of {listed}, and none of these is to be restored"
            )
        for name in names:
            _require_replaceable(name, directories[name], force=force)
        for name in names:
            source, target = Path(staging) / manifest["nodes"][name], directories[name]
            former = Path(staging) / f"former-{source.name}"
            if target.exists():
                target.rename(former)
            source.rename(target)
            target.chmod(0o700)
    return names


def _require_replaceable(name: str, directory: Path, *, force: bool) -> None:
    if (pid := running_process(directory)) is not None:
        raise BackupError(f"node {name} runs (process {pid}); stop it first")
    if not force and directory.is_dir() and any(directory.iterdir()):
        raise BackupError(f"node {name} has state in {directory}; --force replaces it")


def _files(directory: Path) -> Iterator[Path]:
    """Yield what belongs into the archive: files, in a stable order, databases first."""
    found = [p for p in sorted(directory.rglob("*")) if p.is_file() and not p.is_symlink()]
    kept = [p for p in found if p.name not in _LEFT_OUT and not p.name.endswith(("-wal", "-shm", "-journal"))]
    # The database first: whatever it names is complete by then.
    yield from sorted(kept, key=lambda p: p.suffix != ".db")


def _add(archive: tarfile.TarFile, path: Path, name: str) -> int:
    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
        if path.suffix == ".db":
            with tempfile.NamedTemporaryFile(suffix=".db") as copy:
                _copy_database(path, Path(copy.name))
                return _add_file(archive, Path(copy.name), name)
        return _add_file(archive, path, name)
    return 0


def _copy_database(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _add_file(archive: tarfile.TarFile, path: Path, name: str) -> int:
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        member = tarfile.TarInfo(name)
        # As large as it is now: it may grow while it is read.
        member.size, member.mtime, member.mode = (
            found.st_size,
            int(found.st_mtime),
            stat.S_IMODE(found.st_mode),
        )
        archive.addfile(member, file)
        return member.size


def _manifest(nodes: dict[str, Path]) -> bytes:
    document = {
        "format": FORMAT,
        "version": __version__,
        "time": int(time.time()),
        "nodes": {name: path.name for name, path in nodes.items()},
    }
    return json.dumps(document, indent=2).encode()


def _read_manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    first = archive.next()
    file = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
    if file is None:
        raise ValueError("it does not begin as one")
    found: dict[str, Any] = json.loads(file.read())
    if found.get("format") != FORMAT:
        raise ValueError(f"its format is {found.get('format')}, this release reads {FORMAT}")
    return found


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
    archive.addfile(member, io.BytesIO(content))


def _private(path: Path) -> IO[bytes]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "wb")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
