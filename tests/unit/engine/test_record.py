from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shoal.engine import record
from shoal.engine.record import Record
from shoal.engine.shm import Segment
from shoal.engine.tree import Ident
from unit.engine.fakes import engine_spec


def make(engine: str = "m-0") -> Record:
    spec = engine_spec(id=engine, gpus=(0, 1), env={"HF_TOKEN": "hf_secret"})
    return Record(
        id=spec.id,
        model=spec.model,
        kind=spec.kind,
        served_name=spec.served_name,
        host=spec.host,
        port=20001,
        gpus=spec.gpus,
        parts=spec.parts(),
        fingerprint=spec.fingerprint(),
        marker="abc",
        log="/log",
        boot="boot",
        leader=Ident(10, 20),
        members=(Ident(10, 20), Ident(11, 21)),
        segments=(Segment("psm_1", 3),),
    )


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record.write(tmp_path, make("org/m-0"))
    record.write(tmp_path, make("a-0"))
    assert record.read_all(tmp_path) == ([make("a-0"), make("org/m-0")], [])


def test_a_record_is_for_us_alone_and_holds_no_secret(tmp_path: Path) -> None:
    record.write(tmp_path, make())
    path = record.record_path(tmp_path, "m-0")
    assert path.stat().st_mode & 0o077 == 0
    assert b"hf_secret" not in path.read_bytes()


def test_a_removed_record_is_gone_and_may_be_removed_again(tmp_path: Path) -> None:
    record.write(tmp_path, make())
    record.remove(tmp_path, "m-0")
    record.remove(tmp_path, "m-0")
    assert record.read_all(tmp_path) == ([], [])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 1}', b"\xff\x00"])
def test_a_damaged_record_is_put_aside_and_told_of(tmp_path: Path, content: bytes) -> None:
    record.write(tmp_path, make("good-0"))
    path = record.record_path(tmp_path, "bad-0")
    path.write_bytes(content)
    records, problems = record.read_all(tmp_path)
    assert [r.id for r in records] == ["good-0"]
    assert len(problems) == 1
    assert str(path) in problems[0]
    assert path.with_name("bad-0.json.bad").read_bytes() == content
    assert record.read_all(tmp_path)[1] == []


def test_a_write_that_fails_leaves_the_record_before(tmp_path: Path) -> None:
    record.write(tmp_path, make())
    path = record.record_path(tmp_path, "m-0")
    path.with_name(f".{path.name}.new").mkdir()  # nothing can be written there
    with pytest.raises(OSError, match="directory"):
        record.write(tmp_path, msgspec.structs.replace(make(), port=1))
    assert record.read_all(tmp_path)[0] == [make()]


def test_changes_are_told_by_name() -> None:
    spec = engine_spec(gpus=(0, 1), env={"HF_TOKEN": "hf_secret"})
    assert make().changed(spec) == []
    assert make().changed(msgspec.structs.replace(spec, port=5)) == []
    assert make().changed(msgspec.structs.replace(spec, gpus=(0,), args=("--x",))) == ["args", "gpus"]


def test_files_of_an_engine_stay_within_the_state_directory(tmp_path: Path) -> None:
    assert record.record_path(tmp_path, "../../x").parent == tmp_path / "engines"
    assert record.log_path(tmp_path, "a/b").parent == tmp_path / "logs"
