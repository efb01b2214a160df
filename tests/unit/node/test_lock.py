import os
from pathlib import Path

import pytest

from shoal.node.errors import StartError
from shoal.node.lock import running_process, sole_owner


def test_one_process_owns_a_state_directory(tmp_path: Path):
    assert running_process(tmp_path) is None
    with sole_owner(tmp_path / "new", "n"):
        assert running_process(tmp_path / "new") == os.getpid()
        with (
            pytest.raises(StartError, match=rf"node n already runs.*process {os.getpid()}"),
            sole_owner(tmp_path / "new", "n"),
        ):
            pass
    assert running_process(tmp_path / "new") is None
    with sole_owner(tmp_path / "new", "n"):
        pass


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="Set `state_dir`"), sole_owner(tmp_path / "file", "n"):
        pass
