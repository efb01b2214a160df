"""The configuration reference, made from the JSON Schema: ``python -m shoal.config.reference`` prints its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shoal.config.errors import spell
from shoal.config.json_schema import json_schema
from shoal.config.sizes import format_size
from shoal.config.timers import INEQUALITIES

_SIZE = 1024**2  # defaults from here on are bytes where the description says so
_VARIABLE = "#/$defs/variable"
_INLINE = 60  # characters of a default that still fits into a table


def as_markdown() -> str:
    """Return the reference as Markdown: a table for each section, and what must hold between timers."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    schema = json_schema()
    sections = schema["$defs"]
    seen: set[str] = set()
    yield from _section("The file", schema, sections, top=True)
    for name, value in schema["properties"].items():
        yield from _sections(name, value, sections, seen)
    yield "### What must hold between timers\n"
    yield "| setting | must be | otherwise |"
    yield "|---|---|---|"
    for rule in INEQUALITIES:
        yield f"| `{spell(rule.left)}` | {rule.relation} `{rule.right}` | {_cell(rule.reason)} |"


def _sections(path: str, value: dict[str, Any], sections: dict[str, Any], seen: set[str]) -> Iterator[str]:
    """Yield the tables of the section at `path`, if it is one, and of those in it, each once."""
    name, is_list = _section_of(value)
    if name is None or name in seen:
        return
    seen.add(name)
    if is_list:
        path += "[]"
    if path == "model":
        path = "model / models[]"
    section = sections[name]
    yield from _section(f"`{path}`", section, sections)
    for key, inner in section["properties"].items():
        yield from _sections(f"{path}.{key}", inner, sections, seen)


def _section(
    title: str, section: dict[str, Any], sections: dict[str, Any], *, top: bool = False
) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"{section.get('description', '').splitlines()[0]}\n"
    yield "| setting | values | default | meaning |"
    yield "|---|---|---|---|"
    required = section.get("required", [])
    for key, value in section["properties"].items():
        inner = _section_of(value)[0]
        meaning = value.get("description") or (sections[inner]["description"] if inner else "")
        default = "**required**" if key in required else "" if top or inner else _default(value)
        yield f"| `{key}` | {_cell(_values(value))} | {_cell(default)} | {_cell(meaning)} |"
    yield ""


def _options(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what may stand for a value, but for variables and nothing, which may everywhere."""
    options = value.get("anyOf", [value])
    return [o for o in options if o.get("$ref") != _VARIABLE and o.get("type") != "null"]


def _section_of(value: dict[str, Any]) -> tuple[str | None, bool]:
    """Return the name of the section that a value is, and whether it is a list of them."""
    for option in _options(value):
        is_list = "items" in option
        reference = (option["items"] if is_list else option).get("$ref", _VARIABLE)
        if reference != _VARIABLE:
            return reference.rpartition("/")[2], is_list
        if is_list and (inner := _section_of(option["items"])[0]):
            return inner, True
    return None, False


def _values(value: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_one(option) for option in _options(value)))


def _one(option: dict[str, Any]) -> str:
    if "$ref" in option:
        return "section"
    if "enum" in option:
        return ", ".join(f"`{item}`" for item in option["enum"])
    if "const" in option:
        return f"`{option['const']}`"
    match option.get("type"):
        case "integer" | "number" as kind:
            return _range("whole number" if kind == "integer" else "number", option)
        case "boolean":
            return "`true`, `false`"
        case "array":
            if "prefixItems" in option:
                return f"list of {len(option['prefixItems'])}"
            return "list of sections" if _section_of(option)[0] else "list"
        case "object":
            return "mapping"
        case _:
            return "text"


def _range(kind: str, option: dict[str, Any]) -> str:
    low = f"from {option['minimum']:g}" if "minimum" in option else ""
    if "exclusiveMinimum" in option:
        low = f"above {option['exclusiveMinimum']:g}"
    high = option.get("maximum")
    to = "" if high is None else f"to {format_size(high) if high >= _SIZE * 1024 else f'{high:,}'}"
    return " ".join(part for part in (kind, low, to) if part)


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if default in (None, "", [], {}):
        return ""
    if isinstance(default, int) and not isinstance(default, bool) and default >= _SIZE:
        return f"`{format_size(default)}`"
    text = default if isinstance(default, str) else json.dumps(default)
    return f"`{text}`" if len(text) <= _INLINE else ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    print(as_markdown())
