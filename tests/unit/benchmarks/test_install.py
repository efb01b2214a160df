import io
from pathlib import Path

import pytest
from benchmarks.gateway import install
from benchmarks.gateway.install import UnavailableError, cache_folder, version_in

from lib.progress import Step


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("nginx version: nginx/1.22.1\n", "1.22.1"),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17\n", "2.6.12"),
        ("no number", "unknown"),
    ],
)
def test_versions_are_found_in_what_programs_say(text: str, version: str) -> None:
    assert version_in(text) == version


def test_everything_is_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/shoal/bench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/shoal/bench").expanduser()


def test_a_system_program_is_found_off_the_path_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert install.find("no-such-program") is None


def test_where_there_is_no_apt_a_missing_server_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(install, "find", lambda _: None)
    with pytest.raises(UnavailableError, match="not installed, and no apt-get to install haproxy"):
        install.debian("haproxy", "-v")(tmp_path, io.StringIO(), Step())


def test_a_package_that_is_there_is_not_installed_again(tmp_path: Path) -> None:
    program = tmp_path / "envs" / "some-router" / "bin" / "route"
    program.parent.mkdir(parents=True)
    program.touch()
    found = program.parents[1] / "lib" / "python3.11" / "site-packages" / "some_router-1.2.3.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: some-router\nVersion: 1.2.3\n")
    installed = install.pypi("some-router[proxy]", "route")(tmp_path, io.StringIO(), Step())
    assert (installed.path, installed.version) == (program, "1.2.3")
