"""How a node that no file names becomes one of a cluster: it asks a member, and gets its configuration."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec

from shoal import __version__
from shoal.cluster.addresses import split_name
from shoal.cluster.agreed import Agreed
from shoal.cluster.pki import Authority
from shoal.cluster.signing import Signer
from shoal.cluster.wire import Codec, Hello, Message
from shoal.config import Config
from shoal.config.rules import SECRET_VARIABLE
from shoal.config.schema import Node
from shoal.config.shared import DocumentError, validated, with_local
from shoal.node.addresses import base_url
from shoal.node.agreed_store import AgreedStore, Kept, node_of
from shoal.node.agreement import JOIN, version_problem
from shoal.node.certificates import Certificates
from shoal.node.errors import StartError
from shoal.node.link import LinkClient, LinkError
from shoal.node.lock import sole_owner

_DEFAULT_PORT = 8000
_TIMEOUT = 5.0  # s for an answer of the member


class _Self(msgspec.Struct):
    """What ``/shoal/v1/self`` says of the member."""

    node: str
    version: str
    cluster: str
    link: int
    link_authority: str = ""


def join(
    member: str, wanted: str | None, local: Config | None, env: Mapping[str, str]
) -> tuple[Config, Node]:
    """Return the configuration and the node that this process is, once a cluster has taken it in.

    What it is told is kept in its state directory: the next start goes on with that, even if the member is gone.

    Args:
        member: ``HOST:PORT`` of a member's gateway.
        wanted: this node's name; by default the address that reaches the member, and port 8000.
        local: a configuration to take the settings of this machine and the secret from, None for defaults.
        env: the environment.

    Raises:
        StartError: the member does not answer, is of another cluster or release, or does not take it in.
    """
    place = split_name(member)
    if place is None:
        raise StartError(f"--join {member}: write HOST:PORT of a node that runs")
    name = wanted or _own_name(*place)
    secret = local.cluster.secret if local else env.get(SECRET_VARIABLE) or None
    state_dir = (local or _settings_of({}, secret)).state_dir_of(name)
    store = AgreedStore(state_dir)
    kept = store.read()
    if kept is None or kept.learned is None:
        kept = asyncio.run(_ask(place, name, secret, local))
        with sole_owner(state_dir, name):
            store.write(kept)
    assert kept.learned is not None
    try:
        config = with_local(kept.learned, local) if local else _settings_of(kept.learned, secret)
    except DocumentError as error:
        raise StartError(f"what {member} says is no configuration for this machine: {error}") from None
    entry = kept.agreed.joined.get(name)
    if entry is not None:
        return config, node_of(entry)
    me_in_file = config.node(name)
    if me_in_file is None:
        raise StartError(f"{store} does not know node {name}: remove it, and join again")
    return config, me_in_file


def _own_name(host: str, port: int) -> str:
    """Return this machine's address on the way to the member, with the default port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing
            return f"{probe.getsockname()[0]}:{_DEFAULT_PORT}"
    except OSError as error:
        raise StartError(f"--join {host}:{port}: {error.strerror or error}") from error


def _settings_of(document: Mapping[str, Any], secret: str | None) -> Config:
    """Return a configuration with this machine's defaults; of an empty document one that only has those."""
    data: dict[str, Any] = dict(document) or {
        "nodes": [{"host": "127.0.0.1"}],
        "model": {"path": "none", "engine": "sim"},
    }
    if secret:
        data["cluster"] = {**data.get("cluster", {}), "secret": secret}
    return validated(data)


async def _ask(place: tuple[str, int], name: str, secret: str | None, local: Config | None) -> Kept:
    member = f"{place[0]}:{place[1]}"
    found = await _self_of(*place)
    problem = version_problem(__version__, found.version)
    if problem is not None:
        raise StartError(f"{member} does not take this node in: {problem}")
    if local is not None and local.cluster.name != found.cluster:
        raise StartError(
            f"{member} belongs to cluster {found.cluster}, the file here is of cluster {local.cluster.name}"
        )
    authority = Authority(found.cluster, secret) if secret else None
    state_dir = (local or _settings_of({}, secret)).state_dir_of(name)
    certificates = Certificates(state_dir, authority)
    certificates.prepare(name, [name.rpartition(":")[0]])
    client = LinkClient(Signer(found.cluster, secret, time.time), certificates)
    url = base_url(place[0], found.link, tls=bool(found.link_authority))
    try:
        if found.link_authority and (authority is None or authority.fingerprint != found.link_authority):
            raise LinkError("the cluster secrets differ", 401)
        told = await client.ask_at(
            url,
            "POST",
            JOIN,
            {"node": name, "version": __version__},
            authority=found.link_authority,
            timeout=_TIMEOUT,
        )
        return Kept(agreed=msgspec.convert(told["agreed"], Agreed), learned=told["document"])
    except LinkError as error:
        if error.status == 401:
            await asyncio.to_thread(_knock, place, name, found.cluster, secret)
            raise StartError(
                f"{member} does not take this node in: {error}. Give it the cluster's secret, as {SECRET_VARIABLE} "
                "or as `cluster.secret` of the file named with --config."
            ) from None
        raise StartError(f"{member} does not take this node in: {error}") from None


async def _self_of(host: str, port: int) -> _Self:
    """Ask a gateway who it is, over HTTP or HTTPS; nothing of that is believed before the member has proved itself."""
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    reason = ""
    for tls in (False, True):
        url = f"{base_url(host, port, tls=tls)}/shoal/v1/self"
        try:
            async with httpx.AsyncClient(
                verify=unverified if tls else False, timeout=_TIMEOUT, trust_env=False
            ) as client:
                return msgspec.json.decode((await client.get(url)).content, type=_Self)
        except httpx.HTTPError as error:
            reason = reason or str(error) or type(error).__name__
        except msgspec.MsgspecError:
            reason = "what answers there is no Shoal node, or an older one"
    raise StartError(f"--join {host}:{port}: no node answers there: {reason}")


def _knock(place: tuple[str, int], name: str, cluster: str, secret: str | None) -> None:
    """Have the member tell its people, too, that somebody came with another secret: its heartbeats say so."""
    hello = Message(name, time.time_ns() // 1_000_000, 0, Hello())
    datagram = Codec(cluster, secret).encode(hello)
    with contextlib.suppress(OSError):
        family, kind, protocol, _, address = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sender:
            sender.sendto(datagram, address)
