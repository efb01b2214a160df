from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from shoal.config import json_schema

EXAMPLES = Path(__file__).parents[3] / "examples"
SCHEMA = json_schema()
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
KNOWN = {"$defs", "$ref", "$schema", "anyOf", "oneOf", "title", "description", "default"} | {
    *("type", "const", "enum", "format", "pattern", "minLength", "maxLength"),
    *("minimum", "maximum", "exclusiveMinimum", "items", "prefixItems", "minItems", "maxItems"),
    *("properties", "patternProperties", "additionalProperties", "propertyNames", "required"),
}


def errors(value: Any, schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """Yield what is wrong with `value`, by the part of JSON Schema 2020-12 that the schema uses."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    yield from _combination_errors(value, schema, at)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    is_bool = isinstance(value, bool)
    if kinds and not any(isinstance(value, TYPES[k]) and (not is_bool or k == "boolean") for k in kinds):
        yield f"{at}: is no {kinds}"
    elif "const" in schema and value != schema["const"]:
        yield f"{at}: is not {schema['const']}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{at}: is none of {schema['enum']}"
    elif isinstance(value, dict):
        yield from _object_errors(value, schema, at)
    elif isinstance(value, list):
        yield from _array_errors(value, schema, at)
    elif isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            yield f"{at}: does not match {schema['pattern']}"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9):
            yield f"{at}: has {len(value)} characters"
    elif isinstance(value, int | float) and not is_bool:
        least, above = schema.get("minimum", -(10**30)), schema.get("exclusiveMinimum", -(10**30))
        if not (least <= value <= schema.get("maximum", 10**30) and value > above):
            yield f"{at}: out of bounds"


def _combination_errors(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    if "$ref" in schema:
        yield from errors(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    for word, most in (("anyOf", 10**9), ("oneOf", 1)):
        if word in schema:
            fitting = sum(not list(errors(value, option, at)) for option in schema[word])
            if not 1 <= fitting <= most:
                yield f"{at}: fits {fitting} of {word}"


def _array_errors(value: list[Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9):
        yield f"{at}: has {len(value)} items"
    parts = schema.get("prefixItems", [])
    for i, item in enumerate(value):
        yield from errors(item, parts[i] if i < len(parts) else schema.get("items", {}), f"{at}[{i}]")


def _object_errors(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for key in schema.get("required", []):
        if key not in value:
            yield f"{at}: lacks {key}"
    for key, item in value.items():
        if "propertyNames" in schema:
            yield from errors(key, schema["propertyNames"], f"{at}.{key}")
        by_pattern = [v for p, v in schema.get("patternProperties", {}).items() if re.search(p, key)]
        rest = schema.get("additionalProperties", {})
        for known in [properties[key]] if key in properties else by_pattern:
            yield from errors(item, known, f"{at}.{key}")
        if key not in properties and not by_pattern:
            if rest is False:
                yield f"{at}: unknown key {key}"
            else:
                yield from errors(item, rest, f"{at}.{key}")


def check(text: str) -> list[str]:
    return list(errors(YAML(typ="safe", pure=True).load(text), SCHEMA))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_takes_every_example(path: Path) -> None:
    assert check(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "nodes: [{host: a, port: '${PORT}', weight: '${W:-1}', role: '${R}', gpus: ['${G}']}]\nmodel: {path: a}\n",
        "nodes: [{host: a, bind: }]\nmodel: {path: a, args: [--x, 5], env: {A: 1}}\ncluster:\ngateway: {workers: 3}\n",
        "nodes: [{host: a}]\nmodels: [{path: a, args: {a: {b: 1}, c: [1, x], d: true}}]\ngateway: {max_body: 5000}\n",
        "nodes: [{host: a}]\nmodel: {path: a}\nengines: {ports: ['${A}', 3000], log_max_size: 1.5GiB}\n",
    ],
)
def test_the_schema_takes_what_the_loader_takes(text: str) -> None:
    assert check(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "nodes: [{host: a}]\n",
        "model: {path: a}\n",
        "nodes: [{host: a}]\nmodel: {path: a}\nmodels: [{path: b}]\n",
        "nodes: [{host: a, prot: 1}]\nmodel: {path: a}\n",
        "nodes: [{port: 1}]\nmodel: {path: a}\n",
        "nodes: [{host: a, port: 70000}]\nmodel: {path: a}\n",
        "nodes: [{host: a, port: '8000'}]\nmodel: {path: a}\n",
        "nodes: [{host: a, role: x}]\nmodel: {path: a}\n",
        "nodes: []\nmodel: {path: a}\n",
        "nodes: [{host: a}]\nmodel: {path: a}\ncluster: {secret: short}\n",
        "nodes: [{host: a}]\nmodel: {path: a}\ncommunication: {protocol: quic}\n",
        "nodes: [{host: a}]\nmodel: {path: a, args: {--a: 1}}\n",
        "nodes: [{host: a}]\nmodel: {path: a}\ngateway: {max_body: lots}\n",
        "nodes: [{host: a}]\nmodel: {path: a, engine: external, addresses: [{api_key: x}]}\n",
        "zzz: 1\nnodes: [{host: a}]\nmodel: {path: a}\n",
    ],
)
def test_the_schema_refuses_what_is_plainly_wrong(text: str) -> None:
    assert check(text)


def test_every_setting_is_described_to_the_editor() -> None:
    for name, section in {"": SCHEMA, **SCHEMA["$defs"]}.items():
        for key, value in section.get("properties", {}).items():
            referred = [option.get("$ref") for option in value.get("anyOf", [value])]
            described = [
                SCHEMA["$defs"][r.removeprefix("#/$defs/")].get("description") for r in referred if r
            ]
            assert value.get("description") or any(described), f"{name}.{key}"


def test_nothing_of_the_implementation_shows() -> None:
    assert "several" not in SCHEMA["properties"]
    assert SCHEMA["$schema"].startswith("https://json-schema.org/")
    assert SCHEMA["additionalProperties"] is False


def test_a_full_validator_agrees() -> None:
    contract = YAML(typ="safe", pure=True).load((EXAMPLES / "three.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(contract, SCHEMA)
