"""The certificate and key that a gateway shows its clients."""

from __future__ import annotations

import ssl
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from shoal.config.base import Line, Section, surroundings


def pair_problem(certificate: str, key: str) -> str | None:
    """Return what keeps a certificate and a key from being used together, None if nothing does.

    Args:
        certificate: PEM file with the certificate, and those that lead to its root.
        key: PEM file with its private key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password of no use, or OpenSSL would ask for the real one on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"-")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return "this is not the key of `certificate`"
        return "it and `certificate` must be a key and a certificate in PEM form, the key without a password"
    except OSError as error:
        return f"a file cannot be read: {error.strerror}"
    return None


def _existing(value: str, info: ValidationInfo) -> str:
    around = surroundings(info)
    path = around.base / around.expand(value)
    try:
        with path.open("rb"):
            return str(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None


PemFile = Annotated[Line, AfterValidator(_existing)]
"""Path of a file that is there; relative ones start at the configuration file's directory."""


class Tls(Section):
    """The gateway speaks HTTPS with this certificate. Files that change are read again within about a second."""

    certificate: PemFile = Field(
        description="PEM file with the certificate, followed by those that lead to its root. The path is relative to "
        "the configuration file.",
    )
    key: PemFile = Field(description="PEM file with the certificate's private key, without a password.")

    @field_validator("key")
    @classmethod
    def _fits_the_certificate(cls, key: str, info: ValidationInfo) -> str:
        certificate = info.data.get("certificate")  # absent where it is wrong itself
        problem = pair_problem(certificate, key) if certificate else None
        if problem is not None:
            raise ValueError(problem)
        return key
