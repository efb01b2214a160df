"""The cluster's certificate authority and the nodes' certificates, all derived from the cluster secret. No I/O.

Whoever knows the secret arrives at the same bytes: nodes agree on the authority without asking each other, nothing has
to be handed out, kept or renewed, and a lost state directory costs nothing. Certificates never expire: clocks may be as
wrong as they like, and what would have to be replaced when a key gets known is the secret (see
docs/decisions/0015-certificates-derived-from-the-secret.md).

Keys are Ed25519 (RFC 8032): every 32 bytes are a key, signatures are deterministic, and TLS has them since 2018
(RFC 8446, section 9.1; OpenSSL since 1.1.1).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal.cluster.wire import derive_key

SERVER_NAME: Final = "engine.shoal.internal"
"""Name in every node's certificate, and what its clients ask for: the authority signs for nobody but the cluster's
nodes, so that a node's address, which NAT and clouds change, would say nothing more. ``.internal`` is no public name
(ICANN board resolution 2024.07.29.06)."""

_BEGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)  # where a machine without a clock believes to be
_END: Final = datetime(
    9999, 12, 31, 23, 59, 59, tzinfo=UTC
)  # "no well-defined expiration": RFC 5280, 4.1.2.5
_LONGEST_NAME: Final = 64  # characters of a common name: RFC 5280, appendix A.1, ub-common-name
_SERIAL_BYTES: Final = 16  # RFC 5280, 4.1.2.2: positive, 20 bytes at most


class Pair(msgspec.Struct, frozen=True):
    """A node's certificate and the private key that belongs to it, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """The certificate authority of one cluster.

    Args:
        cluster: the cluster's name: two clusters with the same secret have different authorities.
        secret: the cluster secret.

    Attributes:
        certificate: its own certificate, PEM, the same on every node.
        fingerprint: 16 hex digits that name it: of the SHA-256 of that certificate.
    """

    def __init__(self, cluster: str, secret: str) -> None:
        self._cluster = cluster
        self._secret = secret
        self._key = self._derived("authority")
        self._subject = _name(f"Shoal cluster {cluster}")
        public = self._key.public_key()
        built = (
            _certificate(self._subject, self._subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, algorithm=None)
        )
        self.certificate = built.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = hashlib.sha256(self.certificate).hexdigest()[:16]

    def issue(self, node: str, hosts: Iterable[str] = ()) -> Pair:
        """Return the pair of a node, good as a server's and as a client's.

        Args:
            node: the node's name, ``host:port``. Each has a key of its own.
            hosts: names and addresses it has beside `SERVER_NAME`, for the tools of people who connect to an engine.
        """
        key = self._derived(f"node {node}")
        public = key.public_key()
        names = dict.fromkeys((SERVER_NAME, *hosts))
        built = (
            _certificate(_name(node), self._subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, algorithm=None)
        )
        return Pair(
            built.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def _derived(self, of: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(
            derive_key(self._secret, f"tls key of cluster {self._cluster}: {of}")
        )


def _certificate(subject: x509.Name, issuer: x509.Name, key: Ed25519PrivateKey) -> x509.CertificateBuilder:
    public = key.public_key()
    digest = hashlib.sha256(public.public_bytes_raw() + subject.public_bytes()).digest()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(int.from_bytes(digest[:_SERIAL_BYTES]) | 1)
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_LONGEST_NAME])])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
