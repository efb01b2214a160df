from __future__ import annotations

import pytest

from shoal.config.errors import SettingPath
from shoal.config.schema import Model, Node
from shoal.config.shape import all_settings, expected, shape_of


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("nodes", 0, "port"), "a whole number from 1 to 65535"),
        (("nodes", 3, "gpus", 1), "a whole number from 0 to 1023"),
        (("nodes",), "a list with at least one entry"),
        (("nodes", 0), "a mapping (lines of `key: value`)"),
        (("nodes", 0, "role"), "serve, standby or gateway"),
        (("models", 1, "share_gpus"), "true or false"),
        (("model", "engines_per_node"), "a whole number from 1 to 64"),
        (("model", "env"), "a mapping (lines of `key: value`)"),
        (("model", "env", "X"), "text"),
        (("cluster", "secret"), "text of 16 to 1024 characters"),
        (("cluster", "heartbeat_interval"), "a number from 0.05 to 60"),
        (("communication", "timeout"), "a number above 0, at most 3600"),
        (("engines", "ports", 1), "a whole number from 1024 to 65535"),
        (("state_dir",), "text"),
    ],
)
def test_the_right_values_are_told_in_words(path: SettingPath, text: str) -> None:
    shape = shape_of(path)
    assert shape is not None
    assert expected(shape) == text


@pytest.mark.parametrize("path", [("nope",), ("nodes", 0, "nope"), ("nodes", "x"), ("cluster", "name", "x")])
def test_unknown_paths_have_no_shape(path: SettingPath) -> None:
    assert shape_of(path) is None


def test_sections_are_found_through_lists_and_alternatives() -> None:
    assert (shape_of(("nodes", 7)) or shape_of(())).section is Node  # type: ignore[union-attr]
    assert (shape_of(("models", 0)) or shape_of(())).section is Model  # type: ignore[union-attr]


def test_all_settings_are_known_by_the_name_the_file_uses() -> None:
    settings = set(all_settings())
    assert {("nodes", 0, "port"), ("models", 0, "addresses", 0, "url"), ("state_dir",)} <= settings
    assert not any("several" in path for path in settings)
    assert all(shape_of(path) is not None for path in settings)
