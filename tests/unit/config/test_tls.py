"""`gateway.tls`: the files are there and belong together, or the line is told."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.config import Config
from shoal.config.tls import pair_problem

FILE = """\
nodes: [{host: 127.0.0.1}]
model: {path: m, engine: sim}
gateway:
  tls:
    certificate: %s
    key: %s
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the self-signed pairs a.pem, a.key and b.pem, b.key, and a key with a password."""
    directory = tmp_path_factory.mktemp("pairs")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    for name in ("a", "b"):
        curve = (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            f"/CN={name}",
        )
        openssl("req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.pem")
    openssl("ec", "-in", "a.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key")
    (directory / "text").write_text("hello")
    return directory


def test_without_it_the_gateway_speaks_plain_http(config_of: Callable[..., Config]) -> None:
    gateway = config_of("nodes: [{host: 127.0.0.1}]\nmodel: {path: m}\n").gateway
    assert (gateway.tls, gateway.max_connections) == (None, 10_000)


def test_a_pair_is_taken_and_its_paths_are_made_absolute(
    config_of: Callable[..., Config], pairs: Path, tmp_path: Path
) -> None:
    for name in ("a.pem", "a.key"):
        (tmp_path / name).write_bytes((pairs / name).read_bytes())
    tls = config_of(FILE % ("a.pem", "./a.key")).gateway.tls
    assert tls is not None
    assert (tls.certificate, tls.key) == (str(tmp_path / "a.pem"), str(tmp_path / "a.key"))


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("none.pem", "a.key", "5:18: `gateway.tls.certificate` is .*none.pem cannot be read: no such file"),
        ("a.pem", "none.key", "6:10: `gateway.tls.key` is .*none.key cannot be read: no such file"),
        ("a.pem", ".", "6:10: .*cannot be read: is a directory"),
        ("a.pem", "b.key", "6:10: `gateway.tls.key` is .*this is not the key of `certificate`"),
        ("text", "a.key", "6:10: .*a certificate in PEM form"),
        ("a.pem", "text", "6:10: .*a certificate in PEM form"),
        ("a.pem", "locked.key", "6:10: .*the key without a password"),
        ("a.key", "a.pem", "6:10: .*a certificate in PEM form"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(
    told: Callable[..., list[str]], pairs: Path, certificate: str, key: str, message: str
) -> None:
    (problem,) = told(FILE % (pairs / certificate, pairs / key))
    assert re.match(message, problem), problem


def test_one_without_the_other_is_told(told: Callable[..., list[str]], pairs: Path) -> None:
    text = FILE.partition("    key:")[0] % (pairs / "a.pem")
    (problem,) = told(text)
    assert "`key` is missing in `gateway.tls`" in problem


def test_a_pair_that_fits_has_no_problem(pairs: Path) -> None:
    assert pair_problem(str(pairs / "a.pem"), str(pairs / "a.key")) is None
    assert "cannot be read" in (pair_problem(str(pairs / "a.pem"), str(pairs / "gone")) or "")
