"""The capacity floor: how many engines of a model have to stay in rotation (`min_engines`). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from shoal.cluster.view import View, full_id
from shoal.config.schema import Config
from shoal.node.tables import routable


def below_floor(
    config: Config, view: View, answers: Mapping[str, bool], gone: Iterable[str], out: Iterable[str] = ()
) -> str | None:
    """Return the sentence that says for which model too little would be left, None if for none.

    Only models that lose an engine are looked at: one that has too few already is no reason to keep others.

    Args:
        config: the configuration.
        view: members and engines.
        answers: whether engines of members that are not alive answer this node's own probes, by full id.
        gone: full ids of the engines that would get no more requests.
        out: full ids of engines that do not count though the view has them in rotation: somebody else takes them out.
    """
    lost, absent = set(gone), set(out)
    serving: Counter[str] = Counter()
    losing: Counter[str] = Counter()
    for name, engine in routable(view, answers):
        if name in absent:
            continue
        (losing if name in lost else serving)[engine.model] += 1
    for model in config.models:
        left = serving[model.name]
        if losing[model.name] and left < model.min_engines:
            return (
                f"model {model.name} would have {left} engine{'s' * (left != 1)} in rotation, and `min_engines` asks "
                f"for {model.min_engines}"
            )
    return None


def engines_of(view: View, node: str) -> list[str]:
    """Return the full ids of a node's engines."""
    return [full_id(member.name, engine.id) for member, engine in view.engines() if member.name == node]
