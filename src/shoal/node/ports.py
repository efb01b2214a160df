"""Is the node's port free, and if not, who has it."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from http.client import HTTPException

import psutil

from shoal.node.addresses import base_url
from shoal.node.errors import StartError


def is_free(address: str, port: int) -> bool:
    """Return whether TCP `port` can be listened on at `address` by nobody but us."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def require_free(name: str, address: str, port: int) -> None:
    """Raise StartError with who has it unless TCP `port` at `address` is free for node `name`."""
    if is_free(address, port):
        return
    if not _is_local(address):
        raise StartError(
            f"node {name}: {address} is not an address of this machine. Correct `host` or set `bind`."
        )
    other = _shoal_node(address, port)
    if other is not None:
        raise StartError(
            f"node {other} already runs on this machine and has port {port}. One identity, one process: stop that "
            "one first, or start this one as another node with --node HOST:PORT."
        )
    raise StartError(
        f"node {name} cannot listen on {address}:{port}: the port is taken{_owner(port)}. "
        "Stop that program or give the node another `port` (in the file of every node)."
    )


def _is_local(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _shoal_node(address: str, port: int) -> str | None:
    """Return the name of the Shoal node that answers at the port, None when something else does."""
    unverified = ssl.create_default_context()  # this machine asks itself, by an address no certificate names
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    for tls in (False, True):
        url = f"{base_url(address, port, tls=tls)}/shoal/v1/self"
        try:
            with urllib.request.urlopen(url, timeout=2, context=unverified if tls else None) as reply:
                return str(json.load(reply)["node"])
        except (OSError, ValueError, LookupError, TypeError, HTTPException):
            continue
    return None


def _owner(port: int) -> str:
    try:
        for c in psutil.net_connections("tcp"):
            if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN and c.pid:
                return f" by process {c.pid} ({psutil.Process(c.pid).name()})"
    except psutil.Error:
        pass
    return ""
