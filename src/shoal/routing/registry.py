"""The routing policies by the names the configuration uses: those of Shoal, and those of users.

A user's policy is a Python package with an entry point in the group ``shoal.policies``: its name is the policy's, and
it leads to what makes one, called with a number that differs between workers (docs/policies.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from shoal.routing.least_connections import LeastConnections
from shoal.routing.loads import Loads, NoLoads
from shoal.routing.policy import Policy
from shoal.routing.power_of_two import PowerOfTwo
from shoal.routing.prefix_affinity import PrefixAffinity
from shoal.routing.prefix_table import PrefixTable
from shoal.routing.round_robin import RoundRobin
from shoal.routing.session import Session
from shoal.routing.weighted_round_robin import WeightedRoundRobin

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "shoal.policies"
"""Entry points of users' policies."""


class Shared(NamedTuple):
    """What policies of a worker share with other processes.

    Attributes:
        table: which engine has which prompt blocks.
        loads: what engines have to do.
        learned: takes an engine's slot and blocks it was not known to have.
        session_header: lower-case name of the header that names a session.
    """

    table: PrefixTable
    loads: Loads
    learned: Callable[[int, Sequence[int]], None]
    session_header: bytes = b"x-session-id"


def alone() -> Shared:
    """Return what a worker without a node process has: memory of its own, for 10,000 blocks."""
    cells = memoryview(bytearray(8 * 30_000)).cast("Q")
    return Shared(PrefixTable(cells), NoLoads(), lambda *_: None)


_FACTORIES: Final[dict[str, Callable[[int, Shared], Policy]]] = {
    "least_connections": lambda seed, _: LeastConnections(seed),
    "power_of_two": lambda *_: PowerOfTwo(),
    "prefix_affinity": lambda seed, shared: PrefixAffinity(seed, shared.table, shared.loads, shared.learned),
    "round_robin": lambda seed, _: RoundRobin(seed),
    "session": lambda seed, shared: Session(seed, shared.session_header),
    "weighted_round_robin": lambda seed, _: WeightedRoundRobin(seed),
}

POLICIES: Final[tuple[str, ...]] = tuple(_FACTORIES)
"""Names of Shoal's own policies, sorted."""


@functools.cache
def users() -> Mapping[str, EntryPoint]:
    """Return the users' policies that were installed when this was first called, by name."""
    # Late: hardly any worker needs it, and it takes a tenth of a worker's start.
    from importlib.metadata import entry_points  # noqa: PLC0415

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def known(name: str) -> bool:
    """Whether there is a policy of that name, Shoal's or a user's."""
    return name in _FACTORIES or name in users()


def names() -> tuple[str, ...]:
    """Return the names of all policies, sorted, users' ones included."""
    return tuple(sorted({*POLICIES, *users()}))


def create(name: str, seed: int = 0, shared: Shared | None = None) -> Policy:
    """Return a new policy.

    Args:
        name: one of `names`.
        seed: any number that differs between workers; policies start their turns there.
        shared: what it shares with other processes; by default nothing.

    Raises:
        ValueError: there is no policy of that name, and the message lists those there are; or it is a user's and
            cannot be loaded.
    """
    factory = _FACTORIES.get(name)
    if factory is not None:
        return factory(seed, shared or alone())
    entry = users().get(name)
    if entry is None:
        raise ValueError(f"unknown routing policy {name!r}; there are {', '.join(names())}")
    try:
        policy: Policy = entry.load()(seed)
    except Exception as error:
        raise ValueError(
            f"the routing policy {name!r} ({entry.value}) cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(policy, "pick", None)) or not isinstance(
        getattr(policy, "uses_load", None), bool
    ):
        raise ValueError(
            f"the routing policy {name!r} ({entry.value}) has no method `pick` or no attribute `uses_load`"
        )
    return policy
