from __future__ import annotations

import pickle

from shoal.config.errors import ConfigError, Problem, is_secret, printable, show_value, spell


def test_all_problems_are_told_one_per_line_in_the_order_of_the_file() -> None:
    error = ConfigError(
        [
            Problem("a.yaml", "third", 10, 2),
            Problem("a.yaml", "first", 2, 9),
            Problem("a.yaml", "second", 10, 1),
        ]
    )
    assert str(error) == "a.yaml:2:9: first\na.yaml:10:1: second\na.yaml:10:2: third"


def test_the_same_problem_is_told_once() -> None:
    assert str(ConfigError([Problem("a.yaml", "x", 1, 1), Problem("a.yaml", "x", 1, 1)])) == "a.yaml:1:1: x"


def test_a_problem_with_the_file_itself_has_no_line() -> None:
    assert str(Problem("a.yaml", "there is no such file")) == "a.yaml: there is no such file"


def test_an_error_survives_being_sent_to_another_process() -> None:
    error = ConfigError([Problem("a.yaml", "wrong", 1, 2)])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_settings_are_spelled_as_people_write_them() -> None:
    assert spell(("nodes", 0, "port")) == "nodes[0].port"
    assert spell(()) == ""


def test_values_are_shown_as_yaml_has_them() -> None:
    shown = [show_value(v) for v in (None, True, 5, 1.5, "a", [1, "b"], {"a": 1})]
    assert shown == ["empty", "true", "5", "1.5", '"a"', '[1, "b"]', "a mapping"]


def test_values_stay_on_one_line_and_short() -> None:
    assert show_value("a\nb\u2028c\x1b") == '"a\\nb\\u2028c\\x1b"'
    assert len(show_value("x" * 10_000)) < 100
    assert len(show_value(["x" * 50] * 100)) < 100
    assert show_value(10**6000) == "a number of 19932 bits"


def test_line_separators_are_escaped_everywhere() -> None:
    assert printable("a\r\n\x85b") == "a\\r\\n\\x85b"


def test_secrets_are_known_by_their_name() -> None:
    assert is_secret(("cluster", "secret"))
    assert is_secret(("models", 0, "addresses", 1, "api_key"))
    assert is_secret(("model", "env", "HF_TOKEN"))
    assert is_secret(("model", "env", "AWS_SECRET_ACCESS_KEY"))
    assert is_secret(("model", "args", "hf-token"))


def test_ordinary_settings_are_no_secrets() -> None:
    assert not is_secret(("model", "args", "tokenizer"))
    assert not is_secret(("model", "args", "max-num-batched-tokens"))
    assert not is_secret(("nodes", 0, "host"))
    assert not is_secret(())
