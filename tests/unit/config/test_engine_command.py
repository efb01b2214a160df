from __future__ import annotations

import pytest

from shoal.config.engine_command import check_command, filled, places, unknown_places
from support.configs import config


def test_a_text_is_split_as_a_shell_would_and_a_list_is_taken_as_it_is() -> None:
    words = ("run it", "--port", "{port}")
    assert check_command("'run it' --port {port}") == words
    assert check_command(["run it", "--port", "{port}"]) == words
    assert check_command(["x", 1, 0.5]) == ("x", "1", "0.5")


@pytest.mark.parametrize(
    "value", ["", "  ", [], [""], 3, None, {"a": 1}, [["x"]], [True], "x 'y", ["a\0b"]], ids=repr
)
def test_what_is_no_command_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^(it|a command)"):
        check_command(value)


def test_places_are_filled_and_json_is_left_alone() -> None:
    command = ("p", "--where={host}:{port}", '{"a": {"b": 1}}', "{}", "{name}{name}")
    assert list(places(command)) == ["host", "port", "name", "name"]
    assert filled(command, {"port": "1", "host": "::1"}) == [
        "p",
        "--where=::1:1",
        command[2],
        "{}",
        command[4],
    ]
    assert filled(command, {"name": "{port}"})[4] == "{port}{port}"


def test_unknown_places_are_named() -> None:
    assert unknown_places(("p", "{prot}", "{port}")) == "{prot}"
    assert unknown_places(("p", "{port}")) == ""


def test_a_model_needs_no_path_where_the_command_does_not_use_it() -> None:
    model = config(
        "nodes: [{host: 127.0.0.1}]\nmodel: {name: m, engine: command, command: 'p {port}', health: /ready?x=1}"
    ).models[0]
    assert (model.command, model.health, model.path) == (("p", "{port}"), "/ready?x=1", None)
