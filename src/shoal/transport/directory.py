"""The engines that a relay and its carrier know, always those of the node's last word."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shoal.transport.messages import RelayEngine


class Directory:
    """Engines by id. Carriers keep the object and look again, or ask to be told."""

    def __init__(self) -> None:
        self._engines: dict[str, RelayEngine] = {}
        self._told: list[Callable[[], None]] = []

    def replace(self, engines: Iterable[RelayEngine]) -> None:
        """Know these from now on, and tell those that `watch`."""
        self._engines = {engine.id: engine for engine in engines}
        for tell in self._told:
            tell()

    def watch(self, tell: Callable[[], None]) -> None:
        """Call `tell` after each change."""
        self._told.append(tell)

    def get(self, engine: str) -> RelayEngine | None:
        """Return the engine of this id, None if it gets no requests now."""
        return self._engines.get(engine)

    def all(self) -> tuple[RelayEngine, ...]:
        """Return all engines."""
        return tuple(self._engines.values())

    def local(self, model: str = "") -> list[RelayEngine]:
        """Return the engines of this node, of one model or of all."""
        return [e for e in self._engines.values() if e.local and model in ("", e.model)]

    def nodes(self) -> dict[str, str]:
        """Return the other nodes that have engines: the address at which they are reached, by name."""
        return {e.node: e.host for e in self._engines.values() if not e.local}
