"""What waits for room in an engine: from the workers' shared counts to the node's report, and back."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.cluster.view import Waiting
from shoal.gateway.counters import SharedMetrics
from shoal.node.slots import Slots


def waiting(metrics: SharedMetrics, slots: Slots) -> dict[str, Waiting]:
    """Return what waits in this node's workers, by model; models for which nothing waits are left out.

    Args:
        metrics: the shared counts.
        slots: the models' columns in them.
    """
    found: dict[str, Waiting] = {}
    for model, slot in slots.known().items():
        cells = [count for count in metrics.waiting_column(slot) if count > 0]
        if cells:
            found[model] = Waiting(requests=sum(cells), gateways=len(cells))
    return found


def by_slot(gateways: Mapping[str, int], slots: Slots) -> dict[int, int]:
    """Return numbers that belong to models by the models' columns; models this node does not know are left out."""
    found = {slots.get(model): count for model, count in gateways.items()}
    return {slot: count for slot, count in found.items() if slot is not None}
