"""Asks other nodes, over connections on which both ends show the cluster's certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from shoal.batch import wire
from shoal.batch.cluster import Peer
from shoal.batch.records import Record, Version, encode
from shoal.batch.store import Query

_TIMEOUT = httpx.Timeout(10.0, connect=2.0)
_GONE = "it did not answer"


class PeerError(Exception):
    """A node did not do what it was asked; ``str()`` says why, for people.

    Attributes:
        full: its disk is full.
    """

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full


class ConflictError(Exception):
    """A node has another version of a record, or of data."""

    def __init__(self, conflict: wire.Conflict) -> None:
        super().__init__("another version")
        self.conflict = conflict


class Channel:
    """Connections to the other nodes.

    Args:
        me: name of this node.
        context: returns what to connect with to a node whose certificate is of an authority; None for no TLS.
        server_name: that certificates must have.
    """

    def __init__(
        self, me: str, context: Callable[[str], ssl.SSLContext | None], server_name: str | None
    ) -> None:
        self._me = me
        self._context = context
        self._extensions = {"sni_hostname": server_name} if server_name else {}
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Close all connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def stream(
        self, peer: Peer, method: str, target: str, headers: dict[str, str], content: Any = None
    ) -> httpx.Response:
        """Return a node's answer to a request whose body has not been read yet; close it.

        Raises:
            PeerError: it does not answer.
        """
        try:
            client = self._client(peer.authority)
            request = client.build_request(
                method,
                peer.url + target,
                headers=headers | {wire.LOCAL_HEADER: self._me},
                content=content,
                extensions=self._extensions,
            )
            return await client.send(request, stream=True)
        except (httpx.HTTPError, OSError) as error:
            raise PeerError(f"{peer.name}: {str(error) or type(error).__name__}") from error

    async def compare(self, peer: Peer, versions: dict[str, Version]) -> wire.Difference:
        """Return what a node has newer, or not at all, of these records."""
        body = msgspec.json.encode(wire.Comparison(self._me, versions))
        found: wire.Difference = await self._ask(peer, "POST", wire.COMPARE, body, wire.Difference)
        return found

    async def record(self, peer: Peer, id_: str) -> Record | None:
        """Return a node's version of a record, None if it has none."""
        found: list[Record] = await self._ask(peer, "GET", f"{wire.RECORDS}/{id_}", None, list[Record])
        return found[0] if found else None

    async def find(self, peer: Peer, query: Query) -> list[Record]:
        """Return a node's records."""
        found: list[Record] = await self._ask(
            peer, "POST", wire.FIND, msgspec.json.encode(query), list[Record]
        )
        return found

    async def put_record(self, peer: Peer, record: Record) -> None:
        """Have a node keep a record.

        Raises:
            ConflictError: it has a version that holds against this one.
        """
        await self._ask(peer, "PUT", f"{wire.RECORDS}/{record.id}", encode(record), list[Record])

    async def length(self, peer: Peer, file_id: str) -> int:
        """Return how many bytes of a file a node has."""
        return (await self._ask(peer, "GET", f"{wire.DATA}/{file_id}", None, wire.Length)).length  # type: ignore[no-any-return]

    async def put_data(
        self, peer: Peer, file_id: str, offset: int, data: bytes, batch: tuple[str, int, str] | None
    ) -> int:
        """Have a node add bytes to a file; return how many it then has, on its disk.

        Args:
            peer: the node.
            file_id: the file.
            offset: where they go.
            data: the bytes.
            batch: id, generation and owner of the batch whose results they are; None for an upload.

        Raises:
            ConflictError: it has less of the file, or follows another owner.
        """
        target = f"{wire.DATA}/{file_id}?offset={offset}"
        if batch is not None:
            target += f"&batch={batch[0]}&generation={batch[1]}&owner={batch[2]}"
        return (await self._ask(peer, "PUT", target, data, wire.Length)).length  # type: ignore[no-any-return]

    async def _ask(self, peer: Peer, method: str, target: str, content: bytes | None, kind: Any) -> Any:
        if not peer.url:
            raise PeerError(f"{peer.name}: {_GONE}")
        response = await self.stream(peer, method, target, {}, content)
        try:
            body = await response.aread()
            if response.status_code == 200:
                return msgspec.json.decode(body, type=kind)
            if response.status_code == 409:
                raise ConflictError(msgspec.json.decode(body, type=wire.Conflict))
        except (httpx.HTTPError, OSError, msgspec.MsgspecError) as error:
            raise PeerError(f"{peer.name}: {str(error) or type(error).__name__}") from error
        finally:
            await response.aclose()
        full = response.status_code == 507
        what = "its disk is full" if full else f"it answered {response.status_code}"
        raise PeerError(f"{peer.name}: {what}", full=full)

    def _client(self, authority: str) -> httpx.AsyncClient:
        client = self._clients.get(authority)
        if client is None:
            context = self._context(authority) if authority else None
            client = httpx.AsyncClient(
                verify=context or False,  # without an authority there is no TLS
                timeout=_TIMEOUT,
                limits=httpx.Limits(max_connections=200, max_keepalive_connections=20, keepalive_expiry=30),
                trust_env=False,
            )
            self._clients[authority] = client
        return client
