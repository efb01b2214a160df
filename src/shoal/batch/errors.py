"""What goes wrong, in the form clients are told it."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ApiError(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status code.
        message: a sentence for people.
        code: for programs.
        param: the field that is wrong.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


class DiskFullError(ApiError):
    """There is no room on the node's disk."""

    def __init__(self, where: str) -> None:
        super().__init__(
            507,
            f"There is no room left on {where}; delete files that are not needed any more, or ask whoever runs this "
            "cluster for room.",
            "disk_full",
        )


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn what a full disk raises into `DiskFullError`.

    Args:
        where: the disk, for people.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(where) from error
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise DiskFullError(where) from error
        raise


def not_found(kind: str, id_: str) -> ApiError:
    """Return the answer to an id that is not known, or that belongs to somebody else."""
    return ApiError(404, f"There is no {kind} {id_[:100]!r}.", f"{kind}_not_found", "id")
