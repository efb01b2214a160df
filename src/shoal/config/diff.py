"""What two configurations differ in, and when each difference takes effect. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from shoal.config.schema import Config, Model
from shoal.config.shared import shared

Effect = Literal["engines", "at once", "next start", "refused"]
"""``engines``: engines are started, replaced or stopped. ``at once``: without. ``next start``: when one starts again.
``refused``: it cannot be applied."""

_AT_ONCE = ("routing", "admission", "gateway", "files")
_ROUTING_ONLY = ("policy", "max_in_flight", "min_engines", "addresses", "sha256", "replicas")


class Change(msgspec.Struct, frozen=True):
    """One difference.

    Attributes:
        what: the setting, or the model or node, and how it changes.
        effect: when it takes effect.
    """

    what: str
    effect: Effect


def changes(old: Config, new: Config) -> tuple[Change, ...]:
    """Return every difference between what runs and what is to run."""
    return (*_models(old, new), *_nodes(old, new), *_sections(old, new))


def _models(old: Config, new: Config) -> Iterator[Change]:
    before, after = ({m.name: m for m in c.models} for c in (old, new))
    for name, model in after.items():
        if name not in before:
            yield Change(f"model {name} is added ({model.path or 'external'})", "engines")
            continue
        for setting, was, is_ in _differences(_plain(before[name]), _plain(model)):
            effect: Effect = "at once" if setting.partition(".")[0] in _ROUTING_ONLY else "engines"
            yield Change(f"model {name}: {setting}: {was} -> {is_}", effect)
    for name in before.keys() - after.keys():
        yield Change(f"model {name} is removed", "engines")


def _nodes(old: Config, new: Config) -> Iterator[Change]:
    before, after = ({n.name: n for n in c.nodes} for c in (old, new))
    for name in after.keys() - before.keys():
        yield Change(f"node {name} is added: it is expected, and starts when somebody starts it", "at once")
    for name in before.keys() - after.keys():
        yield Change(f"node {name} is not there any more: `shoal leave {name}` removes a node", "refused")
    for name in after.keys() & before.keys():
        if before[name].weight != after[name].weight:
            yield Change(f"node {name}: weight: {before[name].weight:g} -> {after[name].weight:g}", "at once")
        for setting in ("role", "standby", "gpus"):
            was, is_ = getattr(before[name], setting), getattr(after[name], setting)
            if was != is_:
                yield Change(f"node {name}: {setting}: {was} -> {is_}", "next start")


def _sections(old: Config, new: Config) -> Iterator[Change]:
    before, after = shared(old), shared(new)
    for section in sorted((before.keys() | after.keys()) - {"nodes", "model", "models"}):
        for setting, was, is_ in _differences(before.get(section, {}), after.get(section, {})):
            name = f"{section}.{setting}"
            if name == "cluster.name":
                yield Change(f"{name}: {was} -> {is_}: another name is another cluster", "refused")
                continue
            at_once = section in _AT_ONCE and name != "gateway.workers"
            told = "changes" if "keys" in setting or "password" in setting else f"{was} -> {is_}"
            yield Change(f"{name}: {told}", "at once" if at_once else "next start")


def _plain(model: Model) -> dict[str, Any]:
    dumped = model.model_dump(mode="json", exclude_none=True, exclude={"name"})
    # Variables and keys may hold secrets: that they differ is told, not how.
    dumped["env"] = {name: f"#{hash(value) & 0xFFFF:04x}" for name, value in dumped.get("env", {}).items()}
    for address in dumped.get("addresses", ()):
        address.pop("api_key", None)
    return dumped


def _differences(before: Any, after: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys(), key=str):
            name = f"{at}.{key}" if at else str(key)
            yield from _differences(before.get(key), after.get(key), name)
    elif before != after:
        yield at, before, after
