import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.models import partial as partial_module
from shoal.models.copying import Copy, Pace, SourceError
from shoal.models.errors import ModelError
from shoal.models.manifest import Hashes, Manifest, manifest_of
from shoal.models.partial import NoSpaceError, Partial, Piece

PIECE = 64 * 1024


class Giver:
    """A source that gives what a directory holds."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.asked: list[Piece] = []
        self.dies_after: int | None = None
        self.spoils = ""

    def read(self, piece: Piece) -> Iterator[bytes]:
        self.asked.append(piece)
        if self.dies_after is not None and len(self.asked) > self.dies_after:
            raise SourceError("gone")
        with (self.directory / piece.name).open("rb") as stream:
            stream.seek(piece.start)
            data = stream.read(piece.size)
        yield b"?" * len(data) if piece.name == self.spoils else data


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_module, "PIECE", PIECE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "source" / "m"
    (directory / "sub").mkdir(parents=True)
    (directory / "config.json").write_text('{"a": 1}')
    (directory / "empty.txt").touch()
    for i in range(3):
        (directory / "sub" / f"w{i}.safetensors").write_bytes(os.urandom(5 * PIECE + i))
    return directory


@pytest.fixture
def manifest(model: Path, tmp_path: Path) -> Manifest:
    return manifest_of(model, Hashes(tmp_path / "hashes"))


def copy(target: Path, manifest: Manifest, givers: list[Giver], stop: threading.Event | None = None) -> Copy:
    partial = Partial(target, manifest, sorted(manifest.files))
    return Copy(partial, lambda: givers, Pace(None), stop or threading.Event(), connections=3)


def same(target: Path, manifest: Manifest, tmp_path: Path) -> bool:
    return manifest_of(target, Hashes(tmp_path / "other-hashes")) == manifest


def test_a_model_comes_from_several_at_once(model: Path, manifest: Manifest, tmp_path: Path):
    givers = [Giver("a", model), Giver("b", model)]
    target = tmp_path / "models" / "m"
    work = copy(target, manifest, givers)
    work.run()
    assert same(target, manifest, tmp_path)
    assert all(giver.asked for giver in givers)
    assert sum(work.served.values()) == manifest.size
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == ["m"]
    assert str(work.progress()).startswith("copies its files from 2 nodes: 100 % of")


def test_who_dies_half_way_is_made_up_for_by_the_others(model: Path, manifest: Manifest, tmp_path: Path):
    dying, living = Giver("a", model), Giver("b", model)
    dying.dies_after = 3
    target = tmp_path / "m"
    copy(target, manifest, [dying, living]).run()
    assert same(target, manifest, tmp_path)
    assert len(dying.asked) > 3


def test_what_was_interrupted_goes_on(model: Path, manifest: Manifest, tmp_path: Path):
    target, stop = tmp_path / "m", threading.Event()
    first = Giver("a", model)
    whole = first.read

    def until_stopped(piece: Piece) -> Iterator[bytes]:
        if len(first.asked) >= 8:
            stop.set()
        return whole(piece)

    first.read = until_stopped  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="stopped"):
        copy(target, manifest, [first], stop).run()
    assert not target.exists()
    second = Giver("a", model)
    work = copy(target, manifest, [second])
    work.run()
    assert same(target, manifest, tmp_path)
    pieces = sum(-(-max(e.size, 1) // PIECE) for e in manifest.files.values())
    assert 0 < len(second.asked) < pieces


def test_a_file_with_another_hash_is_fetched_again_from_somebody_else(
    model: Path, manifest: Manifest, tmp_path: Path
):
    bad, good = Giver("a", model), Giver("b", model)
    bad.spoils = "sub/w1.safetensors"
    target = tmp_path / "m"
    copy(target, manifest, [bad, good]).run()
    assert same(target, manifest, tmp_path)


def test_what_nobody_has_right_is_never_put_in_place(model: Path, manifest: Manifest, tmp_path: Path):
    bad = Giver("a", model)
    bad.spoils = "sub/w1.safetensors"
    target = tmp_path / "m"
    with pytest.raises(ModelError, match=r"sub/w1.safetensors came out wrong 3 times \(from a\)"):
        copy(target, manifest, [bad]).run()
    assert not target.exists()


def test_only_wrong_files_are_replaced(model: Path, manifest: Manifest, tmp_path: Path):
    target = tmp_path / "m"
    shutil.copytree(model, target)
    (target / "config.json").write_text("broken")
    inode = (target / "sub" / "w0.safetensors").stat().st_ino
    giver = Giver("a", model)
    Copy(Partial(target, manifest, ["config.json"]), lambda: [giver], Pace(None), threading.Event()).run()
    assert same(target, manifest, tmp_path)
    assert {p.name for p in giver.asked} == {"config.json"}
    assert (target / "sub" / "w0.safetensors").stat().st_ino == inode


def test_a_disk_without_room_is_told_before_anything_is_asked_for(
    model: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(partial_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(NoSpaceError, match="has room for"):
        copy(tmp_path / "m", manifest, [])


def test_a_disk_that_fills_gets_its_space_back(model: Path, manifest: Manifest, tmp_path: Path):
    target = tmp_path / "m"
    work = copy(target, manifest, [Giver("a", model)])
    written = 0
    whole = os.pwrite

    def full(descriptor: int, data: bytes, at: int) -> int:
        nonlocal written
        written += 1
        if written > 4:
            raise OSError(28, "No space left on device")
        return whole(descriptor, data, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial_module.os, "pwrite", full)
        with pytest.raises(NoSpaceError, match="is full"):
            work.run()
    assert not target.exists()
    assert not (tmp_path / ".m.shoal-partial").exists()


def test_a_pace_is_kept_over_all_threads():
    now = [100.0]
    pace = Pace(1000, lambda: now[0])
    assert pace.wait_for(500) == pytest.approx(0.5)
    assert pace.wait_for(500) == pytest.approx(1.0)
    now[0] += 10
    assert pace.wait_for(100) == pytest.approx(0.1)
    assert Pace(None).wait_for(10**12) == 0


def test_a_limited_copy_takes_its_time(model: Path, manifest: Manifest, tmp_path: Path):
    partial = Partial(tmp_path / "m", manifest, sorted(manifest.files))
    giver = Giver("a", model)
    began = time.monotonic()
    Copy(partial, lambda: [giver], Pace(manifest.size * 5), threading.Event()).run()
    assert time.monotonic() - began >= 0.15
