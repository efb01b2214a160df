"""What a port that demands a client's certificate says to those that have none."""

import socket
import ssl
from pathlib import Path

from shoal.cluster.pki import Authority

DEADLINE = 10.0


class RefusedError(Exception):
    """The other end broke the handshake off; its text says how."""


def asked(
    port: int, path: str, context: ssl.SSLContext | None, *, method: str = "GET", host: str = "127.0.0.1"
) -> bytes:
    """Return what comes back for a request; with a context, it is sent over TLS and only once the handshake is over.

    Raises:
        RefusedError: the handshake failed, on whichever side, before the request could be answered.
    """
    request = (
        f"{method} {path} HTTP/1.1\r\nhost: engine\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()
    )
    with socket.create_connection((host, port), timeout=DEADLINE) as sock:
        try:
            # An end without TLS's own good-bye is an error then, and no empty answer.
            end = sock if context is None else context.wrap_socket(sock, suppress_ragged_eofs=False)
        except (ssl.SSLError, ConnectionError) as error:
            raise RefusedError(str(error)) from error
        try:
            # In TLS 1.3 the client's part is over before the server has looked at its certificate: what is read first
            # is the server's alert, or its end.
            end.sendall(request)
            found = b""
            while data := end.recv(65536):
                found += data
        except (ssl.SSLError, ConnectionError) as error:
            raise RefusedError(str(error)) from error
    return found


def without_certificate(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return the context of a client that trusts everybody and shows nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.maximum_version = version
    return context


def with_certificate(directory: Path, authority: Authority, node: str = "10.0.0.1:8000") -> ssl.SSLContext:
    """Return the context of a client that trusts everybody and shows a certificate of `authority`."""
    pair = authority.issue(node)
    return showing(directory, pair.certificate, pair.key)


def showing(directory: Path, certificate: bytes, key: bytes) -> ssl.SSLContext:
    """Return the context of a client that trusts everybody and shows this certificate."""
    file = directory / "shown.pem"
    file.write_bytes(certificate + key)
    context = without_certificate()
    context.load_cert_chain(file)
    return context
