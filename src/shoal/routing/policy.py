"""The contract every routing policy fulfils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shoal.routing.ask import Ask
from shoal.routing.table import EngineTarget


class Policy(Protocol):
    """Picks an engine for a request. One instance lives per worker and model, and survives table changes.

    Candidates differ from call to call: engines come and go, and a retry leaves out those that failed. What a
    policy remembers must therefore hang on engine ids, or be worthless at worst.

    A policy that asks for the prompt of most requests may say so with a class attribute ``uses_prompt = True``: bodies
    are then decoded once and not twice.

    One that can say what it goes by may have a method ``weighs(engines, in_flight, ask)``, which is called before
    `pick` for requests that are to be explained and returns a mapping of numbers for each engine.

    Attributes:
        uses_load: `pick` reads `in_flight`; False spares the hot path from collecting it.
    """

    uses_load: bool

    def pick(self, engines: Sequence[EngineTarget], in_flight: Sequence[int], ask: Ask) -> int:
        """Return the index into `engines` of the one to use.

        Args:
            engines: candidates, at least one; engines that already failed this request are not among them. The same
                tuple until the routing table changes, except on a retry.
            in_flight: open requests of each candidate over all gateways of the cluster, as counted at dispatch;
                empty when `uses_load` is False.
            ask: the request. It costs nothing until it is asked something.
        """
        ...
