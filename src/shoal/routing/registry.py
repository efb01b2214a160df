"""The routing policies by the names the configuration uses."""

from __future__ import annotations

from collections.abc import Callable

from shoal.routing.least_connections import LeastConnections
from shoal.routing.policy import Policy
from shoal.routing.round_robin import RoundRobin
from shoal.routing.weighted_round_robin import WeightedRoundRobin

_FACTORIES: dict[str, Callable[[int], Policy]] = {
    "least_connections": LeastConnections,
    "round_robin": RoundRobin,
    "weighted_round_robin": WeightedRoundRobin,
}

POLICIES: tuple[str, ...] = tuple(_FACTORIES)
"""Names of all policies, sorted."""


def create(name: str, seed: int = 0) -> Policy:
    """Return a new policy.

    Args:
        name: one of `POLICIES`.
        seed: any number that differs between workers; policies start their turns there.

    Raises:
        ValueError: there is no policy of that name; the message lists those there are.
    """
    try:
        factory = _FACTORIES[name]
    except KeyError:
        raise ValueError(f"unknown routing policy {name!r}; there are {', '.join(POLICIES)}") from None
    return factory(seed)
