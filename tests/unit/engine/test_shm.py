from __future__ import annotations

import mmap
import multiprocessing
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.engine import shm
from shoal.engine.shm import Segment

USE = """
import mmap, sys
file = open(sys.argv[1], "r+b")
if sys.argv[2] == "mapped":
    memory = mmap.mmap(file.fileno(), 4096)
    file.close()
print("ready", flush=True)
sys.stdin.read()
"""

Make = Callable[[str], Segment]


@pytest.fixture
def make() -> Iterator[Make]:
    prefix = f"psm_shoaltest{uuid.uuid4().hex[:8]}"
    made: list[Path] = []

    def make_one(name: str) -> Segment:
        path = shm.SHM / (prefix + name)
        path.write_bytes(bytes(4096))
        made.append(path)
        return Segment(path.name, path.stat().st_ino)

    yield make_one
    for path in made:
        path.unlink(missing_ok=True)


def user(segment: Segment, how: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", USE, str(shm.SHM / segment.name), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def there(segment: Segment) -> bool:
    return (shm.SHM / segment.name).exists()


@pytest.mark.parametrize("how", ["mapped", "open"])
def test_segments_of_a_process_are_found(make: Make, how: str) -> None:
    mine, other = make("mine"), make("other")
    with user(mine, how) as process:
        assert shm.used_by([process.pid]) == {mine}
        assert other not in shm.used_by([process.pid])
        process.kill()


def test_semaphores_are_found_though_the_kernel_shows_another_name() -> None:
    semaphore = multiprocessing.get_context("spawn").Semaphore()
    name = f"sem.{semaphore._semlock.name.removeprefix('/')}"  # type: ignore[attr-defined]
    assert name in {segment.name for segment in shm.used_by([os.getpid()])}


def test_a_segment_that_nobody_uses_any_more_is_removed(make: Make) -> None:
    left, untouched = make("left"), make("untouched")
    assert shm.remove_unused([left]) == [left.name]
    assert not there(left)
    assert there(untouched)
    assert shm.remove_unused([left]) == []


@pytest.mark.parametrize("how", ["mapped", "open"])
def test_a_segment_that_somebody_still_uses_stays(make: Make, how: str) -> None:
    shared = make("shared")
    with user(shared, how) as process:
        assert shm.remove_unused([shared]) == []
        assert there(shared)
        process.kill()
    assert shm.remove_unused([shared]) == [shared.name]


def test_a_segment_that_we_use_ourselves_stays(make: Make) -> None:
    segment = make("ours")
    with (shm.SHM / segment.name).open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert shm.remove_unused([segment]) == []


def test_another_file_of_the_same_name_stays(make: Make) -> None:
    old = make("name")
    assert shm.remove_unused([Segment(old.name, old.inode + 1_000_000)]) == []
    assert there(old)


def test_links_are_not_followed(make: Make, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("data")
    link = shm.SHM / f"psm_shoaltest{uuid.uuid4().hex[:8]}link"
    link.symlink_to(target)
    try:
        assert link.name not in {segment.name for segment in shm.segments()}
        assert shm.remove_unused([Segment(link.name, target.stat().st_ino)]) == []
        assert target.exists()
    finally:
        link.unlink()


def test_processes_that_are_gone_use_nothing() -> None:
    assert shm.used_by([2**22 + 1]) == set()
    assert shm.remove_unused([]) == []
