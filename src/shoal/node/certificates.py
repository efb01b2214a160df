"""The files a node keeps of the cluster's certificates, and what it connects to engines with.

Each authority has a folder of its own, named by its fingerprint: ``tls/FINGERPRINT/{ca.pem,node.pem,node.key}``. An
engine is started with those of its time and goes on with them when the secret changes, until it is replaced; so do the
connections to it. That is why the folder of the authority before the present one is kept.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
from collections.abc import Collection, Sequence
from pathlib import Path

from shoal.cluster.pki import SERVER_NAME, Authority
from shoal.engine.probe import Probe
from shoal.engine.spec import Tls
from shoal.files import PRIVATE, write_whole
from shoal.gateway.engine_tls import client_context
from shoal.gateway.messages import Credentials
from shoal.node.addresses import base_url
from shoal.node.errors import StartError

_AUTHORITY, _CERTIFICATE, _KEY = "ca.pem", "node.pem", "node.key"
_FORMER = 1  # authorities before the present one whose folders are kept


class Certificates:
    """A node's certificates, of the present authority and of former ones.

    Args:
        state_dir: the node's directory.
        authority: the present one, None for a cluster without a secret.
    """

    def __init__(self, state_dir: Path, authority: Authority | None) -> None:
        self._directory = state_dir / "tls"
        self._authority = authority
        self._contexts: dict[str, ssl.SSLContext] = {}

    @property
    def engine(self) -> Tls | None:
        """What engines are started with from now on; None where there is no secret."""
        return None if self._authority is None else self._files(self._authority.fingerprint)

    def prepare(self, node: str, hosts: Sequence[str]) -> None:
        """Write the files of the present authority, unless they are there as they should be.

        Args:
            node: the node's name.
            hosts: names and addresses to have in its certificate.

        Raises:
            StartError: they could not be written.
        """
        if self._authority is None:
            return
        pair = self._authority.issue(node, hosts)
        files = self._files(self._authority.fingerprint)
        folder = Path(files.ca).parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _keep(Path(files.ca), self._authority.certificate)
            _keep(Path(files.key), pair.key)
            _keep(Path(files.certificate), pair.certificate)
            os.utime(folder)  # tells which of the former ones was the last
        except OSError as error:
            raise StartError(f"the node's certificate cannot be kept under {folder}: {error}") from error

    def tidy(self, used: Collection[str]) -> None:
        """Remove the folders of former authorities, but for the last one and those that running engines still have.

        Args:
            used: fingerprints of those.
        """
        present = self._authority.fingerprint if self._authority else ""
        former = [f for f in self._folders() if f.name != present]
        former.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in former[_FORMER:]:
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def clients(self) -> dict[str, Credentials]:
        """Return what a gateway worker connects to engines with, by the fingerprint of their authority."""
        found = {}
        for folder in self._folders():
            files = self._files(folder.name)
            found[folder.name] = Credentials(
                ca=files.ca, certificate=files.certificate, key=files.key, server_name=SERVER_NAME
            )
        return found

    def context(self, authority: str) -> ssl.SSLContext | None:
        """Return what this process connects to an engine with.

        Args:
            authority: fingerprint of the engine's authority, "" if it speaks no TLS.

        Returns:
            A context shared by all engines of that authority; None for an engine without TLS.

        Raises:
            OSError: this node has no certificate of that authority.
        """
        if not authority:
            return None
        context = self._contexts.get(authority)
        if context is None:
            files = self._files(authority)
            context = client_context(files.ca, files.certificate, files.key)
            self._contexts[authority] = context
        return context

    def probe(
        self,
        host: str,
        port: int,
        model: str,
        authority: str,
        *,
        timeout: float,
        api_key: str | None = None,
        health: str = "/health",
        any_program: bool = False,
    ) -> Probe:
        """Return a probe of an engine of the cluster.

        Args:
            host: address it listens on, or is reached at.
            port: TCP port.
            model: id it serves the model under.
            authority: as for `context`.
            timeout: seconds an answer may take.
            api_key: sent as a bearer token.
            health: see `Probe`.
            any_program: see `Probe`.

        Raises:
            OSError: as for `context`.
        """
        context = self.context(authority)
        return Probe(
            base_url(host, port, tls=context is not None),
            model,
            api_key=api_key,
            timeout=timeout,
            tls=context,
            server_name=SERVER_NAME if context else None,
            health=health,
            any_program=any_program,
        )

    def _files(self, authority: str) -> Tls:
        folder = self._directory / authority
        return Tls(
            authority=authority,
            ca=str(folder / _AUTHORITY),
            certificate=str(folder / _CERTIFICATE),
            key=str(folder / _KEY),
        )

    def _folders(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return [folder for folder in self._directory.iterdir() if (folder / _CERTIFICATE).exists()]
        return []


def _keep(file: Path, content: bytes) -> None:
    """Have `file` hold `content`, for its owner alone; it is never seen half-written."""
    with contextlib.suppress(FileNotFoundError):
        if file.read_bytes() == content and file.stat().st_mode & 0o077 == 0:
            return
    write_whole(file, content, mode=PRIVATE)
