"""The link: the port on which a node answers other nodes, and how it asks them.

It is one of `engines.ports`, so that it needs no further hole in a firewall; heartbeats say which
(`NodeReport.link`). It speaks mutual TLS wherever engines do, and takes signed requests only, with TLS and without
(see `shoal.node.orders`).
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import httpx
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from shoal.cluster.addresses import split_name
from shoal.cluster.pki import SERVER_NAME
from shoal.cluster.signing import HEADER, NotSignedError, Signer
from shoal.cluster.view import Member
from shoal.engine.ports import NoFreePortError, Reservation, reserve
from shoal.engine.spec import Tls
from shoal.node.addresses import base_url
from shoal.node.certificates import Certificates
from shoal.node.errors import StartError
from shoal.node.http import Server, between_nodes

_BACKLOG = 128
_GRACE = 1  # s that a request may take when the node stops


class LinkServer:
    """Answers other nodes.

    Args:
        node: this node's name.
        host: numeric address to listen on.
        ports: first and last of those to choose from.
        tls: certificates to show and to demand, None for plain HTTP.

    Raises:
        StartError: no port is free.
    """

    def __init__(self, node: str, host: str, ports: Sequence[int], tls: Tls | None) -> None:
        self._tls = tls
        try:
            self._reservation: Reservation = reserve(host, ports[0], ports[1], f"{node}/link")
        except (NoFreePortError, OSError) as error:
            raise StartError(f"node {node} has no port for other nodes: {error}") from error
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, self._reservation.port))
        self._socket.listen(_BACKLOG)
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """TCP port it listens on."""
        return self._reservation.port

    @property
    def authority(self) -> str:
        """Names the authority of the certificates it shows and demands, "" for plain HTTP."""
        return self._tls.authority if self._tls else ""

    async def serve(self, routes: Sequence[BaseRoute]) -> None:
        """Answer by these routes until `stop`."""
        settings = between_nodes(
            Starlette(routes=list(routes)),
            self._tls,
            log_level="critical",  # what is wrong with a request is told as an event
            timeout_graceful_shutdown=_GRACE,
        )
        self._server = Server(settings)
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self.close()

    def stop(self) -> None:
        """Ask `serve` to return soon."""
        if self._server is not None:
            self._server.stop()

    def close(self) -> None:
        """Let the port go."""
        self._socket.close()
        self._reservation.release()


class LinkError(Exception):
    """Another node did not do what it was asked; the text says why.

    Attributes:
        status: of its answer, None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LinkClient:
    """Asks other nodes.

    Args:
        signer: signs requests and checks answers.
        certificates: for connections with TLS.
    """

    def __init__(self, signer: Signer, certificates: Certificates) -> None:
        self._signer = signer
        self._certificates = certificates

    async def ask(
        self,
        member: Member,
        method: str,
        path: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float = 5.0,
    ) -> Any:
        """Return what a member answers.

        Args:
            member: whom to ask.
            method: ``GET`` or ``POST``.
            path: such as ``/shoal/v1/nodes/drain``.
            arguments: a GET's query, a POST's JSON object.
            timeout: seconds without progress.

        Raises:
            LinkError: it did not answer, or refused.
        """
        report = member.report
        if report is None or not report.link:
            raise LinkError(f"{member.name} has not said where it can be asked")
        host = (split_name(member.name) or ("", 0))[0]
        return await self.ask_at(
            base_url(host, report.link, tls=bool(report.link_authority)),
            method,
            path,
            arguments,
            authority=report.link_authority,
            timeout=timeout,
        )

    async def ask_at(
        self,
        url: str,
        method: str,
        path: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        authority: str = "",
        timeout: float = 5.0,
    ) -> Any:
        """Return what the node at a URL answers; see `ask`.

        Args:
            url: ``http://host:port``, or https.
            method: see `ask`.
            path: see `ask`.
            arguments: see `ask`.
            authority: whose certificates it shows and demands, "" for plain HTTP.
            timeout: see `ask`.

        Raises:
            LinkError: it did not answer, or refused.
        """
        body = b"" if method == "GET" else json.dumps(arguments or {}).encode()
        target = f"{path}?{urlencode(arguments)}" if method == "GET" and arguments else path
        signature = self._signer.sign(method, target, body)
        try:
            context = self._certificates.context(authority)
            async with httpx.AsyncClient(verify=context or False, timeout=timeout, trust_env=False) as client:
                reply = await client.request(
                    method,
                    url + target,
                    content=body,
                    headers={HEADER: signature, "content-type": "application/json"},
                    extensions={"sni_hostname": SERVER_NAME} if context else {},
                )
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            raise LinkError(f"{url} did not answer: {str(error) or type(error).__name__}") from error
        return checked_answer(self._signer, signature, reply)


def checked_answer(signer: Signer, signature: str, reply: httpx.Response) -> Any:
    """Return the document of an answer.

    Args:
        signer: that signed the request.
        signature: of the request.
        reply: the answer.

    Raises:
        LinkError: it is a refusal, is not signed, or no JSON.
    """
    try:
        document = reply.json()
    except ValueError:
        raise LinkError(f"it answered {reply.status_code}: {reply.text[:200]}", reply.status_code) from None
    if reply.status_code in (401, 403):  # whoever cannot check us cannot sign either
        raise LinkError(_message(document), reply.status_code)
    try:
        signer.check_answer(reply.headers.get(HEADER), signature, reply.status_code, reply.content)
    except NotSignedError as error:
        raise LinkError(str(error), reply.status_code) from None
    if reply.status_code != 200:
        raise LinkError(_message(document), reply.status_code)
    return document


def _message(document: Any) -> str:
    try:
        return str(document["error"]["message"])
    except (TypeError, LookupError):
        return str(document)[:300]
