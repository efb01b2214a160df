from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.config import ConfigError, Loaded, load

MINIMAL = "nodes: [{host: 127.0.0.1}]\nmodel: {path: a/b}\n"


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return str(caught.value)


def test_a_file_that_does_not_exist_is_told(tmp_path: Path) -> None:
    assert refused(tmp_path / "nope.yaml") == f"{tmp_path}/nope.yaml: there is no such file"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert "this is a directory" in refused(tmp_path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")


def test_a_name_that_cannot_be_one_is_refused() -> None:
    assert "cannot be read" in refused(Path("a\0b")) or "no such file" in refused(Path("a\0b"))
    assert "cannot be read" in refused(Path("a" * 5000))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with path.open("wb") as file:
        file.truncate(2 * 1024**3)
    assert "is it really the configuration?" in refused(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(MINIMAL)
    path.chmod(0)
    assert "cannot be read: Permission denied" in refused(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", ":1:1: the file is empty"),
        (b"# only a comment\n", ":1:1: the file is empty"),
        (b"---\n...\n", ":1:1: the file is empty"),
        (b"null\n", ":1:1: the file is empty"),
        (b"- a\n", ":1:1: this is ["),
        (b"hello\n", ':1:1: this is "hello"; the file must be a mapping'),
        (b"5\n", ":1:1: this is 5; the file must be a mapping"),
        (b"${X}\n", ":1:1: ``: environment variable X is not set"),
        (b"nodes: \xff\n", ":1:8: byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"# ok\nnodes:\n  - \xe4\n", ":3:5: byte 0xe4 is not UTF-8"),
        ("nodes: 1\n".encode("utf-16"), ":1:1: the file is UTF-16; save the file as UTF-8"),
    ],
)
def test_a_file_that_is_no_mapping_in_utf8_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}{told}")


def test_a_byte_order_mark_and_dos_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load(path, {}).config.models[0].name == "b"


def test_the_path_may_be_a_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(MINIMAL)
    assert load(str(tmp_path / "c.yaml"), {}).config.nodes  # type: ignore[arg-type]


def test_all_problems_of_a_file_are_told_at_once_in_order(
    load_text: Callable[..., Loaded], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text("""\
            nodes:
              - host: http://a
                prot: 80
              - port: ${NOPE}
              - {host: 127.0.0.1, host: ::1}
              - host: 127.0.0.1
            model:
              path: a/b
              args: {port: 5}
            communication: {protocol: quic}
            cluster: {confirm_timeout: 9}
            zzz: 1
        """)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4", "4", "5", "9", "10", "11", "12"]
    assert all(line.startswith(f"{tmp_path}/cluster.yaml:") for line in lines)


def test_the_secret_may_come_from_the_environment(load_text: Callable[..., Loaded]) -> None:
    config = load_text(MINIMAL, SHOAL_SECRET="0123456789abcdef").config
    assert config.cluster.secret == "0123456789abcdef"
    other = load_text(
        MINIMAL + "cluster: {secret: fedcba9876543210}\n", SHOAL_SECRET="0123456789abcdef"
    ).config
    assert other.cluster.secret == "fedcba9876543210"


def test_models_next_to_the_file_are_found_from_anywhere(
    load_text: Callable[..., Loaded], tmp_path: Path
) -> None:
    config = load_text(
        "nodes: [{host: ::1}]\nmodel: {path: ./m}\nengines: {python: ../venv/bin/python}\n"
    ).config
    assert config.models[0].path == str(tmp_path / "m")
    assert config.engines.python == str(tmp_path.parent / "venv/bin/python")


def test_what_is_found_out_later_can_still_name_its_line(
    load_text: Callable[..., Loaded], tmp_path: Path
) -> None:
    loaded = load_text(MINIMAL)
    assert loaded.where("model", "path") == f"{tmp_path}/cluster.yaml:2"
    assert str(loaded.error("no such directory", "model", "path")).endswith(
        "cluster.yaml:2:15: no such directory"
    )


def test_starting_is_refused_with_the_line_of_the_node(load_text: Callable[..., Loaded]) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.yaml:1:16: node 10\.0\.0\.1:8000 can be reached"):
        load_text("nodes: [{host: 10.0.0.1}]\nmodel: {path: a/b}\n").require_servable()


def test_the_environment_is_the_process_s_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text("nodes: [{host: '${SHOAL_TEST_HOST}'}]\nmodel: {path: a/b}\n")
    monkeypatch.setenv("SHOAL_TEST_HOST", "127.0.0.9")
    assert load(tmp_path / "c.yaml").config.nodes[0].host == "127.0.0.9"
