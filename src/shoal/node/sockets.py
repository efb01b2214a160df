"""Where a node's unix socket is: in its state directory, or, where that path is too long for a socket, linked there."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

NAME = "control.sock"
_MAX_PATH = 107  # bytes that the kernel takes for the path of a unix socket


@contextlib.contextmanager
def control_socket(state_dir: Path) -> Iterator[Path]:
    """Yield the path of a node's control socket, short enough to be one."""
    path = state_dir / NAME
    if len(str(path).encode()) <= _MAX_PATH:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="shoal-") as short:
        path.unlink(missing_ok=True)
        path.symlink_to(Path(short) / NAME)
        try:
            yield Path(short) / NAME
        finally:
            path.unlink(missing_ok=True)


def control_socket_of(state_dir: Path) -> Path | None:
    """Return the path to connect to for the node with this state directory, None if it has none."""
    path = state_dir / NAME
    target = path.readlink() if path.is_symlink() else path
    return target if target.exists() else None
