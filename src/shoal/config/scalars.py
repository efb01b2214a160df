"""What a scalar of YAML 1.2 means: the rules by which ``8000`` is a number and ``node1`` a text."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode

_CORE = "tag:yaml.org,2002:"
STRING = _CORE + "str"
MERGE = _CORE + "merge"
_yaml = YAML(typ="safe", pure=True)


class FromVariable(str):
    """The text of an environment variable that makes up a whole scalar, so its type is still open.

    ``port: ${PORT}`` must give a number and ``secret: ${SECRET}`` a text, even if both are ``12345678``; only
    the schema knows which, and settles it with `scalar_value`.
    """


def scalar_value(text: str) -> Any:
    """Return what an unquoted scalar `text` means in YAML: None, bool, int, float or str.

    Raises:
        ValueError: it looks like a number but is none that can be held.
    """
    tag = str(_yaml.resolver.resolve(ScalarNode, text, (True, False)))
    try:
        return tagged_value(tag, str(text))
    except ValueError:
        raise ValueError("that is a number too long to be held") from None


def tagged_value(tag: str, text: str) -> Any:
    """Return the value of a scalar that YAML resolved to `tag`; dates and anything unusual stay text.

    Raises:
        ValueError: it looks like a number but is none that can be held.
    """
    digits = text.replace("_", "").lower()
    match tag.removeprefix(_CORE):
        case "null":
            return None
        case "bool":
            return digits in {"true", "yes", "on", "y"}  # all but the first only under "%YAML 1.1"
        case "int":
            return _integer(digits)
        case "float":
            return float(digits.replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            return text


def _integer(digits: str) -> int:
    """Read an integer as YAML 1.2 does: ``0x``, ``0o`` and ``0b`` are prefixes, a leading 0 means nothing."""
    unsigned = digits.lstrip("+-")
    sign = -1 if digits.startswith("-") else 1
    base = {"0x": 16, "0o": 8, "0b": 2}.get(unsigned[:2])
    return sign * (int(unsigned[2:], base) if base else int(unsigned))
