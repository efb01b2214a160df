"""How many requests engines get, and how others wait: what the file may say."""

import pytest

from shoal.config import ConfigError
from support.configs import config

FILE = "nodes: [{host: 127.0.0.1}]\nmodel: {path: org/m, max_in_flight: %s}\nadmission: {max_in_flight: %s}\n"


@pytest.mark.parametrize(
    ("value", "expected"), [("auto", "auto"), ("off", "off"), ("1", 1), ("300", 300), ('"${N}"', 12)]
)
def test_the_limit_is_a_number_or_a_word(value: str, expected: object):
    got = config(FILE % (value, value), N="12")
    assert (got.admission.max_in_flight, got.models[0].max_in_flight) == (expected, expected)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "true", "[1]"])
def test_anything_else_is_told(value: str):
    with pytest.raises(ConfigError, match="whole number from 1 to 1000000, or auto, or off"):
        config(FILE % ("auto", value))


def test_nodes_must_agree_on_it():
    assert config(FILE % ("auto", "5")).agreed_hash() != config(FILE % ("auto", "6")).agreed_hash()
    assert config(FILE % ("auto", "5")).agreed_hash() != config(FILE % ("6", "5")).agreed_hash()
