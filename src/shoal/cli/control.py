"""Asks nodes for their documents and gives them orders: on this machine over their unix sockets, else over HTTP."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from shoal.cluster.signing import HEADER, Signer
from shoal.config import Config
from shoal.config.rules import SECRET_VARIABLE
from shoal.node.addresses import base_url
from shoal.node.link import LinkError, checked_answer
from shoal.node.lock import running_process
from shoal.node.peers import verification
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


def ask_any_text(config: Config | None, url: str | None, path: str, key: str | None) -> str:
    """Return the text at `path` of the node at a URL, or of the first of `config` that answers.

    Raises:
        NoAnswer: none does.
    """
    tried = []
    for where, client, base in _ways(config, url, 5.0):
        with client:
            try:
                reply = client.get(base + path, headers={"authorization": f"Bearer {key}"} if key else {})
                reply.raise_for_status()
                return reply.text
            except httpx.HTTPError as error:
                tried.append(f"  {where}: {str(error) or type(error).__name__}")
    raise NoAnswer("\n".join(tried))


class Refused(Exception):  # noqa: N818 - that is what it is
    """A node does not do what it was told; ``str()`` says why."""


def order(
    config: Config | None,
    url: str | None,
    path: str,
    arguments: Mapping[str, Any],
    *,
    key: str | None = None,
    method: str = "POST",
    timeout: float = 15.0,
) -> Any:
    """Give an order to the first node that takes it, and return its answer. It is signed with the cluster secret.

    Args:
        config: the cluster's; None where only a URL and the environment's secret are known.
        url: the node to ask, None for the first of `config` that answers, those of this machine first.
        path: such as ``/shoal/v1/nodes/drain``.
        arguments: a JSON object.
        key: admin key, for gateways that ask for one.
        method: ``POST``, or ``GET`` for a signed question.
        timeout: seconds without an answer.

    Raises:
        NoAnswer: no node answers.
        Refused: the one that did refuses.
    """
    tried = []
    for where, client, base in _ways(config, url, timeout):
        with client:
            try:
                signer = _signer(config, client, base)
                body = b"" if method == "GET" else json.dumps(arguments).encode()
                signature = signer.sign(method, path, body)
                headers = {HEADER: signature, "content-type": "application/json"}
                if key:
                    headers["authorization"] = f"Bearer {key}"
                reply = client.request(method, base + path, content=body, headers=headers)
            except httpx.ConnectError as error:
                tried.append(f"  {where}: {str(error) or type(error).__name__}")
                continue
            except (httpx.HTTPError, ValueError, KeyError) as error:
                # It may have been done: nobody else is asked.
                raise NoAnswer(f"  {where}: {str(error) or type(error).__name__}") from None
        try:
            return checked_answer(signer, signature, reply)
        except LinkError as error:
            raise Refused(str(error)) from None
    raise NoAnswer("\n".join(tried))


def _ways(config: Config | None, url: str | None, timeout: float) -> Iterator[tuple[str, httpx.Client, str]]:
    """Yield how nodes may be reached: where for people, a client and the URL's beginning."""
    if url is not None:
        yield url, httpx.Client(timeout=timeout, verify=verification(url)), url.rstrip("/")
        return
    assert config is not None
    for node in config.nodes:
        state_dir = config.state_dir_of(node.name)
        socket = control_socket_of(state_dir) if running_process(state_dir) is not None else None
        if socket is not None:
            transport = httpx.HTTPTransport(uds=str(socket))
            yield node.name, httpx.Client(transport=transport, timeout=timeout), "http://node"
    for node in config.nodes:
        remote = base_url(node.host, node.port, tls=config.gateway.tls is not None)
        yield remote, httpx.Client(timeout=timeout, verify=verification(remote)), remote


def _signer(config: Config | None, client: httpx.Client, base: str) -> Signer:
    if config is not None:
        return Signer(config.cluster.name, config.cluster.secret, time.time)
    cluster = client.get(f"{base}/shoal/v1/self").json()["cluster"]
    return Signer(cluster, os.environ.get(SECRET_VARIABLE) or None, time.time)


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
