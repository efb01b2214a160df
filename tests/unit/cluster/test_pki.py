"""The authority derived from the secret: the same on every node, and nobody's but the cluster's."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from shoal.cluster.pki import SERVER_NAME, Authority
from shoal.gateway.engine_tls import client_context
from support.handshakes import RefusedError, asked, showing, with_certificate, without_certificate

SECRET = "0123456789abcdef"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def files(directory: Path, authority: Authority, node: str) -> tuple[str, str, str]:
    """Write what a node has; return the paths of the authority's certificate, the node's, and its key."""
    pair = authority.issue(node, ["10.0.0.1"])
    paths = [directory / f"{node.replace(':', '_')}.{kind}" for kind in ("ca", "pem", "key")]
    for path, content in zip(paths, (authority.certificate, pair.certificate, pair.key), strict=True):
        path.write_bytes(content)
    return str(paths[0]), str(paths[1]), str(paths[2])


def server_context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """Return the context that uvicorn makes of vLLM's ``--ssl-*`` arguments."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca)
    return context


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server with the certificate of a node of the cluster that demands its clients'."""
    context = server_context(*files(tmp_path, Authority("shoal", SECRET), "a:1"))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(5)
                try:
                    with context.wrap_socket(sock, server_side=True) as tls:
                        if tls.recv(65536):
                            tls.sendall(ANSWER)
                            tls.unwrap()
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def connect(port: int, context: ssl.SSLContext, name: str = SERVER_NAME) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
        context.wrap_socket(sock, server_hostname=name) as tls,
    ):
        tls.sendall(b"x")
        assert tls.recv(100) == ANSWER


def test_every_node_arrives_at_the_same_bytes() -> None:
    one, other = Authority("shoal", SECRET), Authority("shoal", SECRET)
    assert one.certificate == other.certificate
    assert one.fingerprint == other.fingerprint
    assert one.issue("a:1", ["10.0.0.1"]) == other.issue("a:1", ["10.0.0.1"])
    # Nodes of different releases must agree: these bytes may not change without a plan for rolling upgrades.
    assert one.fingerprint == "264d509c33679a08"


@pytest.mark.parametrize("other", [("shoal", SECRET + "x"), ("other", SECRET)])
def test_another_secret_or_cluster_is_another_authority(other: tuple[str, str]) -> None:
    one, another = Authority("shoal", SECRET), Authority(*other)
    assert one.fingerprint != another.fingerprint
    assert one.issue("a:1").key != another.issue("a:1").key


def test_each_node_has_a_key_of_its_own() -> None:
    authority = Authority("shoal", SECRET)
    assert authority.issue("a:1").key != authority.issue("b:1").key
    assert authority.issue("a:1").key != Ed25519PrivateKey.generate().private_bytes_raw()


def test_a_certificate_names_its_node_and_is_good_for_ever() -> None:
    pair = Authority("shoal", SECRET).issue("n1.example.com:8000", ["n1.example.com", "10.0.0.1", "fd00::1"])
    found = x509.load_pem_x509_certificate(pair.certificate)
    (name,) = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "n1.example.com:8000"
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME, "n1.example.com"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "fd00::1"]
    assert found.not_valid_before_utc <= datetime(1970, 1, 1, tzinfo=UTC)
    assert found.not_valid_after_utc > datetime(9999, 1, 1, tzinfo=UTC)


def test_a_name_longer_than_a_certificate_takes_is_cut() -> None:
    pair = Authority("shoal", SECRET).issue(f"{'a' * 60}.example.com:8000")
    assert x509.load_pem_x509_certificate(pair.certificate).subject.rfc4514_string() == f"CN={'a' * 60}.exa"


def test_nodes_with_the_same_secret_accept_each_other(port: int, tmp_path: Path) -> None:
    connect(port, client_context(*files(tmp_path, Authority("shoal", SECRET), "b:2")))


def test_a_node_refuses_an_engine_of_another_secret(port: int, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        connect(port, client_context(*files(tmp_path, Authority("shoal", "another" + SECRET), "b:2")))


def test_a_node_refuses_a_certificate_that_is_no_engines(port: int, tmp_path: Path) -> None:
    context = client_context(*files(tmp_path, Authority("shoal", SECRET), "b:2"))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(port, context, "example.com")


def test_clients_without_the_clusters_certificate_are_refused_at_the_handshake(
    port: int, tmp_path: Path
) -> None:
    assert asked(port, "/", with_certificate(tmp_path, Authority("shoal", SECRET), "c:3")) == ANSWER
    for context in (
        without_certificate(),
        without_certificate(ssl.TLSVersion.TLSv1_2),
        with_certificate(tmp_path, Authority("shoal", "another" + SECRET)),
        with_certificate(tmp_path, Authority("other", SECRET)),
        showing(tmp_path, *signed_by_itself("Shoal cluster shoal")),
        showing(tmp_path, *signed_by_a_node()),
        showing(tmp_path, *expired()),
    ):
        with pytest.raises(RefusedError):
            pytest.fail(f"it got {asked(port, '/', context)!r}")


def made(
    subject: str, issuer: str, key: Ed25519PrivateKey, signer: Ed25519PrivateKey, end: int = 2090
) -> tuple[bytes, bytes]:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    certificate = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(end, 1, 1, tzinfo=UTC))
        .sign(signer, None)
    )
    encoding = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(*encoding)


def signed_by_itself(name: str) -> tuple[bytes, bytes]:
    """A certificate that only claims to be of the authority."""
    key = Ed25519PrivateKey.generate()
    return made("a:1", name, key, key)


def signed_by_a_node() -> tuple[bytes, bytes]:
    """A certificate that a node has issued, which is no authority; with the node's own in the chain."""
    pair = Authority("shoal", SECRET).issue("a:1")
    signer = serialization.load_pem_private_key(pair.key, None)
    assert isinstance(signer, Ed25519PrivateKey)
    certificate, key = made("x", "a:1", Ed25519PrivateKey.generate(), signer)
    return certificate + pair.certificate, key


def expired() -> tuple[bytes, bytes]:
    """A certificate of the authority whose time is over; Shoal never makes one."""
    authority = Authority("shoal", SECRET)
    return made("a:1", "Shoal cluster shoal", Ed25519PrivateKey.generate(), authority._key, end=2001)
