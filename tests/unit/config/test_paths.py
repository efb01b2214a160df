from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config.paths import Surroundings

AROUND = Surroundings(Path("/etc/shoal"), {"HOME": "/home/me"})


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("~/models/x", "/home/me/models/x"),
        ("~", "/home/me"),
        ("./x", "/etc/shoal/x"),
        ("../x", "/etc/x"),
        ("/models/x", "/models/x"),
        ("org/name", "org/name"),
        ("python3", "python3"),
    ],
)
def test_only_what_is_surely_a_path_is_resolved(text: str, meaning: str) -> None:
    assert AROUND.expand(text) == meaning


def test_an_unknown_home_is_refused() -> None:
    with pytest.raises(ValueError, match="home directory of ~nobody-of-that-name"):
        AROUND.expand("~nobody-of-that-name/x")


def test_state_goes_where_the_xdg_specification_says() -> None:
    assert AROUND.default_state_dir() == Path("/home/me/.local/state/shoal")
    assert Surroundings(Path("/"), {"XDG_STATE_HOME": "/var/s"}).default_state_dir() == Path("/var/s/shoal")
    relative = Surroundings(Path("/"), {"XDG_STATE_HOME": "s", "HOME": "/h"})
    assert relative.default_state_dir() == Path("/h/.local/state/shoal")
