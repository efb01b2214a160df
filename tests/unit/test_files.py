import stat
from pathlib import Path

import pytest

from shoal.files import PRIVATE, write_whole


def test_a_file_takes_the_place_of_the_one_before_with_its_own_mode(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text("before")
    write_whole(path, b"after", mode=PRIVATE, sync=True)
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == PRIVATE
    assert [p.name for p in tmp_path.iterdir()] == ["some.json"]


def test_what_another_attempt_left_is_no_obstacle_and_is_not_written_through(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "some.json", tmp_path / "elsewhere"
    elsewhere.write_text("not ours")
    (tmp_path / ".some.json.new").symlink_to(elsewhere)
    write_whole(path, b"whole")
    assert (path.read_bytes(), elsewhere.read_text()) == (b"whole", "not ours")


def test_where_nothing_can_be_written_the_one_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text("before")
    (tmp_path / ".some.json.new").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(path, b"after")
    assert path.read_text() == "before"
