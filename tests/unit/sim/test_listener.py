from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from shoal.sim.listener import CannotListenError, bind

if TYPE_CHECKING:
    from support.sim import Sim


def test_a_bound_port_does_not_listen_yet() -> None:
    with bind("127.0.0.1", 0) as sock, pytest.raises(ConnectionRefusedError):
        socket.create_connection(sock.getsockname())


def test_a_taken_port_and_a_foreign_address_are_explained() -> None:
    with bind("127.0.0.1", 0) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(CannotListenError, match=f"127.0.0.1:{port}: Address already in use"):
            bind("127.0.0.1", port)
    with pytest.raises(CannotListenError, match=r"192\.0\.2\.1:0: Cannot assign requested address"):
        bind("192.0.2.1", 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_with_tls_a_client_without_certificate_gets_nothing(
    start_sim: Callable[..., Sim], tmp_path: Path
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    names = ["-subj", "/CN=sim", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", *names, "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    flags = ["--ssl-certfile", str(cert), "--ssl-keyfile", str(key), "--ssl-ca-certs", str(cert)]
    sim = start_sim(*flags, "--ssl-cert-reqs", "2", wait=False)
    url = sim.url
    assert url.startswith("https://")
    trusting = ssl.create_default_context(cafile=str(cert))
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/health", verify=trusting)
    trusting.load_cert_chain(cert, key)
    assert httpx.get(f"{url}/health", verify=trusting).status_code == 200
