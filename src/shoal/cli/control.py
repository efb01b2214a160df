"""Asks nodes for their documents: those of this machine over their unix sockets, others over HTTP with a key."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from shoal.config import Config
from shoal.config.hosts import is_loopback
from shoal.node.addresses import base_url
from shoal.node.lock import running_process
from shoal.node.sockets import control_socket_of

KEY_VARIABLE = "SHOAL_KEY"
"""Environment variable with the key that commands show to nodes of other machines."""


class NoAnswer(Exception):  # noqa: N818 - that is what it is
    """A node did not answer with a document; ``str()`` says why."""


def ask_here(config: Config, node: str, path: str) -> Any:
    """Return the document at `path` of a node of this machine. No key is needed: the socket is its user's alone.

    Args:
        config: the cluster's.
        node: name of the node.
        path: such as ``/shoal/v1/status``.

    Raises:
        NoAnswer: it does not run here, or as another user, or does not answer.
    """
    state_dir = config.state_dir_of(node)
    socket = control_socket_of(state_dir) if running_process(state_dir) is not None else None
    if socket is None:
        raise NoAnswer("it does not run on this machine")
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, timeout=5) as client:
        return _document(client, f"http://node{path}", None)


def ask(url: str, path: str, key: str | None) -> Any:
    """Return the document at `path` of the node at a URL.

    Raises:
        NoAnswer: it does not answer with one.
    """
    with httpx.Client(timeout=3, verify=verification(url)) as client:
        return _document(client, url.rstrip("/") + path, key)


def verification(url: str) -> ssl.SSLContext | bool:
    """Return how to check the certificate at a URL: not on this machine itself, which no certificate names."""
    host = urlsplit(url).hostname or ""
    return not is_loopback(host) and ssl.create_default_context()


def ask_any(config: Config, path: str, key: str | None) -> Any:
    """Return the document at `path` of the first node of a cluster that answers, those of this machine first.

    Raises:
        NoAnswer: none does.
    """
    tried = []
    for node in config.nodes:
        try:
            return ask_here(config, node.name, path)
        except NoAnswer:
            continue
    for node in config.nodes:
        url = base_url(node.host, node.port, tls=config.gateway.tls is not None)
        try:
            return ask(url, path, key)
        except NoAnswer as error:
            tried.append(f"  {url}: {error}")
    raise NoAnswer("\n".join(tried))


def _document(client: httpx.Client, url: str, key: str | None) -> Any:
    try:
        reply = client.get(url, headers={"authorization": f"Bearer {key}"} if key else {})
        if reply.status_code in (401, 403):
            raise NoAnswer(
                f"it asks for an admin key: set {KEY_VARIABLE}, or ask on the node's own machine with --config"
            )
        reply.raise_for_status()
        return reply.json()
    except (httpx.HTTPError, ValueError) as error:
        raise NoAnswer(str(error) or type(error).__name__) from None
