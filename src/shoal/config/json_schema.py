"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

from typing import Any

from shoal.config.schema import Config

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}"}
_KEPT_OUTSIDE = ("description", "default", "title")
# Made from other settings or from the machine: what the model has in their place means nothing to an editor.
_COMPUTED_DEFAULTS = frozenset({"state_dir", "name", "model", "models"})


def json_schema() -> dict[str, Any]:
    """Return a JSON Schema (2020-12) for configuration files.

    Like the loader it allows ``${NAME}`` wherever a single value stands, and a key without a value wherever
    there is a default. It knows single settings; the rules between them are beyond it.
    """
    schema = Config.model_json_schema(by_alias=True)
    definitions = schema.setdefault("$defs", {})
    for section in (schema, *definitions.values()):
        if "properties" in section:
            _loosen(section)
    definitions["variable"] = _VARIABLE
    either = [{"required": ["model"]}, {"required": ["models"]}]
    return {"$schema": _DIALECT} | schema | {"title": "Shoal cluster configuration", "oneOf": either}


def _loosen(section: dict[str, Any]) -> None:
    required = section.get("required", [])
    section.pop("title", None)
    for key, value in section["properties"].items():
        value.pop("title", None)
        if key in _COMPUTED_DEFAULTS and (key != "name" or value.get("default") == ""):
            value.pop("default", None)
        section["properties"][key] = _with_alternatives(value, optional=key not in required)


def _with_alternatives(value: dict[str, Any], *, optional: bool) -> dict[str, Any]:
    """Return the schema `value` extended by what the loader takes in place of it."""
    outside = {key: value[key] for key in _KEPT_OUTSIDE if key in value}
    inside = {key: item for key, item in value.items() if key not in _KEPT_OUTSIDE}
    options = inside["anyOf"] if set(inside) == {"anyOf"} else [inside]
    if any(_is_scalar_without_text(option) for option in options):
        options = [*options, {"$ref": "#/$defs/variable"}]
    for option in options:
        if "items" in option:
            option["items"] = _with_alternatives(option["items"], optional=False)
        if "prefixItems" in option:
            option["prefixItems"] = [_with_alternatives(i, optional=False) for i in option["prefixItems"]]
    if optional and {"type": "null"} not in options:
        options = [*options, {"type": "null"}]
    return outside | (options[0] if len(options) == 1 else {"anyOf": options})


def _is_scalar_without_text(option: dict[str, Any]) -> bool:
    bounded_text = option.get("type") == "string" and not {"pattern", "enum", "minLength"}.isdisjoint(option)
    return "const" in option or option.get("type") in ("integer", "number", "boolean") or bounded_text
