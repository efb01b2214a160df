"""The part of a configuration that all nodes share, as plain data: what a node that joins is told, and what is applied.

What belongs to one machine is left out: where state goes, what is logged, the certificate for clients, the interpreter
that has vLLM. The secret is left out too: whoever may have the rest knows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from shoal.config.paths import Surroundings
from shoal.config.rules import RulesError
from shoal.config.schema import Config

_LOCAL: dict[str, Any] = {
    "state_dir": True,
    "logging": True,
    "cluster": {"secret"},
    "gateway": {"tls"},
    "engines": {"python"},
}


class DocumentError(Exception):
    """Shared data that is no configuration here; the text says what is wrong with it."""


def shared(config: Config) -> dict[str, Any]:
    """Return what nodes share of a configuration, ready for JSON; paths are those of the machine it was read on."""
    dumped: dict[str, Any] = config.model_dump(mode="json", by_alias=True, exclude=_LOCAL, exclude_none=True)
    dumped["nodes"] = [_without(node, {"bind"}) for node in dumped["nodes"]]
    if not config.several:
        dumped.pop("models", None)
    return dumped


def with_local(document: Mapping[str, Any], local: Config) -> Config:
    """Return the configuration that `document` is on a machine whose own settings are those of `local`.

    Raises:
        DocumentError: it is none.
    """
    own = local.model_dump(mode="json", by_alias=True, exclude_none=True)
    data = {**document, "state_dir": own["state_dir"], "logging": own["logging"]}
    for section, name in (("cluster", "secret"), ("gateway", "tls"), ("engines", "python")):
        if (value := own.get(section, {}).get(name)) is not None:
            data[section] = {**data.get(section, {}), name: value}
    binds = {node.name: node.bind for node in local.nodes if node.bind}
    data["nodes"] = [
        node | ({"bind": binds[name]} if (name := f"{node['host']}:{node['port']}") in binds else {})
        for node in data.get("nodes", [])
    ]
    return validated(data)


def validated(data: Mapping[str, Any]) -> Config:
    """Return the configuration that plain data is.

    Raises:
        DocumentError: it is none.
    """
    try:
        return Config.model_validate(dict(data), context=Surroundings())
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        cause = found.get("ctx", {}).get("error")
        text = str(cause) if isinstance(cause, RulesError) else found["msg"]
        where = ".".join(str(step) for step in found["loc"])
        raise DocumentError(f"{where}: {text}" if where else text) from None


def digest(document: Mapping[str, Any]) -> str:
    """Return 16 hex characters that name a document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without(mapping: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
