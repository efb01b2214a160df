"""TLS towards clients: one context for all connections, its certificate replaced when the files change."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from shoal.gateway.messages import WorkerNotice

_Stamp = tuple[tuple[int, int, int], ...]


class ServerTls:
    """The certificate a worker shows.

    Args:
        certificate: PEM file with the certificate, and those that lead to its root.
        key: PEM file with its private key.
        report: takes what people should know.

    Raises:
        OSError: the files cannot be read, or do not belong together (`ssl.SSLError`).
    """

    def __init__(self, certificate: str, key: str, report: Callable[[WorkerNotice], None]) -> None:
        self._files = (certificate, key)
        self._report = report
        self._stamp = self._now()  # before they are read: what changes meanwhile is read again
        self._failed: _Stamp | None = None  # what could not be used when it was looked at
        self._told: _Stamp | None = None
        self.context = _context()
        self.context.load_cert_chain(certificate, key, password=_no_password)

    def refresh(self) -> None:
        """Use the files as they are now, if they have changed and can be used. New connections see them."""
        stamp = self._now()
        if stamp in (self._stamp, self._told):
            return
        try:
            # On trial: a context that a broken pair was loaded into would not go back to its former one.
            _context().load_cert_chain(*self._files, password=_no_password)
            self.context.load_cert_chain(*self._files, password=_no_password)
        except OSError as error:
            if stamp == self._failed:  # not half of a change that is under way
                self._told = stamp
                reason = getattr(error, "reason", None) or error.strerror or str(error)
                text = f"gateway: the new certificate {self._files[0]} cannot be used ({reason}); the former one stays"
                self._report(WorkerNotice(text, "warning"))
            self._failed = stamp
        else:
            self._stamp, self._failed, self._told = stamp, None, None
            self._report(
                WorkerNotice(f"gateway: the certificate {self._files[0]} has changed and is in use", "info")
            )

    def _now(self) -> _Stamp:
        found = []
        for file in self._files:
            try:
                status = os.stat(file)  # noqa: PTH116 every second, for each worker
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> bytes:
    """Return a password of no use, or OpenSSL would ask for the real one on a terminal."""
    return b"-"
