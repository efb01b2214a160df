"""The files of a node's certificates: written once, kept for themselves, those of a former secret too."""

import os
import ssl
from pathlib import Path

import pytest

from shoal.cluster.pki import SERVER_NAME, Authority
from shoal.node.certificates import Certificates
from shoal.node.errors import StartError


def authority(secret: str = "0123456789abcdef") -> Authority:
    return Authority("shoal", secret)


def prepared(directory: Path, of: Authority) -> Certificates:
    certificates = Certificates(directory, of)
    certificates.prepare("a:1", ["a"])
    return certificates


def folders(directory: Path) -> set[str]:
    return {path.name for path in (directory / "tls").iterdir()}


def test_files_are_for_the_owner_alone_and_not_touched_again(tmp_path: Path):
    engine = prepared(tmp_path, authority()).engine
    assert engine is not None
    files = [Path(engine.ca), Path(engine.certificate), Path(engine.key)]
    assert [f.stat().st_mode & 0o777 for f in files] == [0o600] * 3
    assert files[0].parent.stat().st_mode & 0o777 == 0o700
    before = [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files]
    assert prepared(tmp_path, authority()).engine == engine
    assert [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files] == before


def test_what_is_broken_missing_or_open_to_others_is_written_anew(tmp_path: Path):
    engine = prepared(tmp_path, authority()).engine
    assert engine is not None
    wanted = [Path(f).read_bytes() for f in (engine.ca, engine.certificate, engine.key)]
    Path(engine.ca).unlink()
    Path(engine.certificate).write_bytes(b"")
    Path(engine.key).chmod(0o644)
    again = prepared(tmp_path, authority())
    assert [Path(f).read_bytes() for f in (engine.ca, engine.certificate, engine.key)] == wanted
    assert Path(engine.key).stat().st_mode & 0o077 == 0
    assert again.context(engine.authority) is not None


def test_a_new_address_changes_the_certificate_and_not_what_engines_are_started_with(tmp_path: Path):
    before = prepared(tmp_path, authority())
    assert before.engine is not None
    shown = Path(before.engine.certificate).read_bytes()
    after = Certificates(tmp_path, authority())
    after.prepare("a:1", ["a", "10.0.0.9"])
    assert after.engine == before.engine
    assert Path(before.engine.certificate).read_bytes() != shown


def test_a_former_authority_is_kept_while_engines_have_it_and_the_last_one_in_any_case(tmp_path: Path):
    authorities = [authority(f"{i}123456789abcdef") for i in range(4)]
    for age, one in enumerate(reversed(authorities[:3])):
        prepared(tmp_path, one)
        os.utime(tmp_path / "tls" / one.fingerprint, (1e9 - age, 1e9 - age))
    present = prepared(tmp_path, authorities[3])
    present.tidy({authorities[0].fingerprint})
    assert folders(tmp_path) == {authorities[i].fingerprint for i in (0, 2, 3)}
    assert set(present.clients()) == folders(tmp_path)
    assert present.context(authorities[2].fingerprint) is not None
    present.tidy(())
    assert folders(tmp_path) == {authorities[i].fingerprint for i in (2, 3)}


def test_there_is_none_for_an_authority_the_node_does_not_know(tmp_path: Path):
    certificates = prepared(tmp_path, authority())
    with pytest.raises(OSError, match="No such file"):
        certificates.context("0" * 16)
    assert certificates.context("") is None


def test_a_context_is_made_once_and_demands_the_clusters_name(tmp_path: Path):
    one = authority()
    certificates = prepared(tmp_path, one)
    context = certificates.context(one.fingerprint)
    assert context is certificates.context(one.fingerprint)
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert certificates.clients()[one.fingerprint].server_name == SERVER_NAME


def test_without_a_secret_there_is_nothing(tmp_path: Path):
    certificates = Certificates(tmp_path, None)
    certificates.prepare("a:1", [])
    certificates.tidy(())
    assert (certificates.engine, certificates.clients(), list(tmp_path.iterdir())) == (None, {}, [])


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "tls").write_text("no directory")
    with pytest.raises(StartError, match="the node's certificate cannot be kept under"):
        prepared(tmp_path, authority())
