"""From the engines a node runs to those it is to run, in steps that take little out of rotation at a time. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from shoal.engine.spec import EngineSpec


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step: an engine is started, or started anew in another form.

    Attributes:
        engine: its id on the node.
        model: the model it serves.
        replaces: it runs already, as something else.
        stops: engines that have to go first, because they have its GPUs.
    """

    engine: str
    model: str
    replaces: bool = False
    stops: tuple[str, ...] = ()


def steps(
    old: Mapping[str, EngineSpec], new: Mapping[str, EngineSpec], shares: Collection[str] = ()
) -> tuple[Step, ...]:
    """Return the steps from `old` to `new`, new engines first: what they add is there when others are away.

    Engines that are not wanted any more are no step unless they are in the way: they stop when everything else is done.

    Args:
        old: engines that should run now, by id.
        new: engines that should run then, by id.
        shares: models whose engines take no GPU for themselves alone.
    """
    gone = {i: spec for i, spec in old.items() if i not in new}
    found: list[Step] = []
    stopped: set[str] = set()
    changed = [i for i in new if i not in old or old[i].fingerprint() != new[i].fingerprint()]
    for i in sorted(changed, key=lambda i: (i in old, i)):
        mine = set(new[i].gpus or ())
        in_the_way = {
            other
            for other, spec in gone.items()
            if mine & set(spec.gpus or ()) and not {spec.model, new[i].model} & set(shares)
        }
        found.append(
            Step(
                engine=i,
                model=new[i].model,
                replaces=i in old,
                stops=tuple(sorted(in_the_way - stopped)),
            )
        )
        stopped |= in_the_way
    return tuple(found)


def mixed(
    old: Mapping[str, EngineSpec], new: Mapping[str, EngineSpec], done: Collection[Step]
) -> dict[str, EngineSpec]:
    """Return what a node is to run when these steps are done."""
    stopped = {engine for step in done for engine in step.stops}
    specs = {i: spec for i, spec in old.items() if i not in stopped}
    return specs | {step.engine: new[step.engine] for step in done}
