"""Asks other nodes for a document: those of this machine over their unix sockets, others over HTTP."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shoal.config import Config
from shoal.config.hosts import is_loopback
from shoal.node.addresses import base_url
from shoal.node.lock import running_process
from shoal.node.sockets import control_socket_of

if TYPE_CHECKING:
    import httpx


def verification(url: str) -> ssl.SSLContext | bool:
    """Return how to check the certificate at a URL: not on this machine itself, which no certificate names."""
    host = urlsplit(url).hostname or ""
    return not is_loopback(host) and ssl.create_default_context()


class Peers:
    """The other nodes of a cluster.

    Args:
        config: the cluster's.
        key: shown to nodes that are asked over HTTP; None for none.
        timeout: seconds an answer may take.
    """

    def __init__(self, config: Config, key: str | None, timeout: float) -> None:
        self._config = config
        self._key = key
        self._timeout = timeout
        self._contexts: dict[bool, ssl.SSLContext | bool] = {}

    async def ask(self, nodes: Iterable[str], path: str) -> dict[str, str | None]:
        """Ask nodes for the text at a path, all at once.

        Args:
            nodes: their names.
            path: such as ``/metrics``.

        Returns:
            By name what each one says, None for those that do not answer with status 200 in time.
        """
        names = list(nodes)
        return dict(zip(names, await asyncio.gather(*(self._ask(n, path) for n in names)), strict=True))

    async def _ask(self, node: str, path: str) -> str | None:
        import httpx  # noqa: PLC0415 - 80 ms, which a node that is never asked for the others can do without

        try:
            async with asyncio.timeout(self._timeout), self._client(node) as client:
                reply = await client.get(path)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError):
            return None
        return reply.text if reply.status_code == 200 else None

    def _client(self, node: str) -> httpx.AsyncClient:
        import httpx  # noqa: PLC0415

        state_dir = self._config.state_dir_of(node)
        socket = control_socket_of(state_dir) if running_process(state_dir) is not None else None
        if socket is not None:
            return httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(socket)), base_url="http://node", timeout=None
            )
        host, _, port = node.rpartition(":")
        url = base_url(host.strip("[]"), int(port), tls=self._config.gateway.tls is not None)
        return httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {self._key}"} if self._key else {},
            verify=self._verification(url),
            timeout=None,
            trust_env=False,  # no proxy stands between nodes
        )

    def _verification(self, url: str) -> ssl.SSLContext | bool:
        """Return how to check the certificate at a URL; loading the system's takes 20 ms, so that is done once."""
        if not url.startswith("https:"):
            return False
        here = is_loopback(urlsplit(url).hostname or "")
        if here not in self._contexts:
            self._contexts[here] = verification(url)
        return self._contexts[here]
