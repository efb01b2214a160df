"""Files that are never seen half-written."""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE = 0o600
"""Mode of a file that only its owner reads."""


def write_whole(path: Path, content: bytes, *, mode: int = 0o666, sync: bool = False) -> None:
    """Put a file in the place of the one before, all at once. One process writes it.

    Args:
        path: the file; its directory is there.
        content: what it is to hold.
        mode: permissions, less the umask.
        sync: return only when the content is on the disk.

    Raises:
        OSError: it could not be written; the one before is still there.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        if sync:
            out.flush()
            os.fsync(out.fileno())
    new.replace(path)
