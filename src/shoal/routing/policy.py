"""The contract every routing policy fulfils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shoal.routing.table import EngineTarget


class Policy(Protocol):
    """Picks an engine for a request. One instance lives per worker and model, and survives table changes.

    Candidates differ from call to call: engines come and go, and a retry leaves out those that failed. What a
    policy remembers must therefore hang on engine ids, or be worthless at worst.

    Attributes:
        uses_load: `pick` reads `in_flight`; False spares the hot path from collecting it.
    """

    uses_load: bool

    def pick(self, engines: Sequence[EngineTarget], in_flight: Sequence[int]) -> int:
        """Return the index into `engines` of the one to use.

        Args:
            engines: candidates, at least one; engines that already failed this request are not among them.
            in_flight: open requests of each candidate over all gateways of the cluster, as counted at dispatch;
                empty when `uses_load` is False.
        """
        ...
