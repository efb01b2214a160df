"""A node's part in applying a configuration: it grants its turn, and goes from one engine to the next when it is told.

Until a configuration is committed nothing of it is remembered: a node that restarts, or hears nothing more from whoever
applies, runs what it ran before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from shoal.cluster.view import EngineReport
from shoal.config import Config, Node
from shoal.config.shared import DocumentError
from shoal.engine.spec import EngineSpec
from shoal.node.duty import Duties, Duty
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.model_files import ModelFiles
from shoal.node.orders import Handler, RefusedError, text_of
from shoal.node.steps import Step, mixed, steps
from shoal.node.turn import TakenError, Turns

TURN, RELEASE = "/shoal/v1/turn", "/shoal/v1/turn/release"
PREPARE, STATE = "/shoal/v1/rollout/prepare", "/shoal/v1/rollout"
STEP, ACCEPT, UNDO = "/shoal/v1/rollout/step", "/shoal/v1/rollout/accept", "/shoal/v1/rollout/undo"


class Prepared(msgspec.Struct, frozen=True):
    """A configuration as this node would run it.

    Attributes:
        turn: id of the turn it is applied in.
        config: the configuration.
        duties: its engines.
        former: the engines that ran before.
        steps: from those to these.
    """

    turn: str
    config: Config
    duties: Duties
    former: Mapping[str, EngineSpec]
    steps: tuple[Step, ...]


class Rollout:
    """The part of one node.

    Args:
        node: the node.
        duty: what it runs.
        files: the files of its models.
        configured: returns the configuration that a document is here, joined nodes included; may raise DocumentError.
        current: returns the configuration that holds.
        events: gets a sentence for each step.
        on_change: called when what the node should run has changed.
    """

    def __init__(
        self,
        node: Node,
        duty: Duty,
        files: ModelFiles,
        *,
        configured: Callable[[Mapping[str, Any]], Config],
        current: Callable[[], Config],
        events: Events,
        on_change: Callable[[], None],
    ) -> None:
        self._node = node
        self._duty = duty
        self._files = files
        self._configured = configured
        self._current = current
        self._events = events
        self._on_change = on_change
        self._turns = Turns()
        self._prepared: Prepared | None = None
        self._done: list[Step] = []
        self._unproven: set[str] = set()

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what whoever applies asks, by method and path."""
        return {
            ("POST", TURN): self._take_turn,
            ("POST", RELEASE): self._release_turn,
            ("POST", PREPARE): self._prepare,
            ("GET", STATE): self._state,
            ("POST", STEP): self._step,
            ("POST", ACCEPT): self._accept,
            ("POST", UNDO): self._undo,
        }

    def marked(
        self, reports: Iterable[EngineReport], fingerprints: Mapping[str, str]
    ) -> tuple[EngineReport, ...]:
        """Return reports in which engines that have not proved themselves yet are kept out of rotation.

        Args:
            reports: of this node's engines.
            fingerprints: of what runs, by engine id.
        """
        return tuple(
            msgspec.structs.replace(r, standby=True) if fingerprints.get(r.id) in self._unproven else r
            for r in reports
        )

    def look(self) -> None:
        """Go back to what was before where nobody applies any more; to be called about once a second."""
        if self._prepared is not None and self._turns.current(time.monotonic()) is None:
            self._events.add("whoever applies a configuration is not heard any more", "warning")
            self._go_back()

    @property
    def under_way(self) -> bool:
        """Whether this node is between two configurations."""
        return bool(self._done)

    @property
    def led(self) -> bool:
        """Whether somebody who applies a configuration says what is this node's turn."""
        return self._turns.current(time.monotonic()) is not None

    def committed(self, config: Config) -> Duties | None:
        """A configuration holds from now on: return the engines that were prepared for it, None if none were."""
        prepared, self._prepared, self._done = self._prepared, None, []
        self._unproven = set()
        return prepared.duties if prepared is not None and prepared.config.models == config.models else None

    # -- what whoever applies asks

    async def _take_turn(self, arguments: Mapping[str, Any]) -> Any:
        try:
            self._turns.take(
                text_of(arguments, "turn"), text_of(arguments, "by"), time.time(), time.monotonic()
            )
        except TakenError as error:
            raise RefusedError(str(error)) from None
        return {}

    async def _release_turn(self, arguments: Mapping[str, Any]) -> Any:
        turn = text_of(arguments, "turn")
        if self._prepared is not None and self._prepared.turn == turn:
            self._go_back()
        self._turns.release(turn)
        return {}

    async def _prepare(self, arguments: Mapping[str, Any]) -> Any:
        document = arguments.get("document")
        if not isinstance(document, dict):
            raise RefusedError("`document` is missing", 400)
        try:
            config = self._configured(document)
            node = config.node(self._node.name)
            if node is None:
                raise RefusedError(
                    f"it does not name node {self._node.name}, which runs: let it `shoal leave` first"
                )
            duties = await asyncio.to_thread(self._duty.prepare, config)
        except (DocumentError, StartError) as error:
            raise RefusedError(str(error)) from None
        if (parts := duties.parts.get(self._duty.covers, {})) != self._duty.parts:
            changed = ", ".join(sorted(parts.keys() ^ self._duty.parts.keys()) or sorted(parts))
            instead = (
                "`shoal down --on ray` and `shoal up --on ray` with the new file"
                if config.cluster.substrate == "ray"
                else "stop the nodes of that model and start them with the new file"
            )
            raise RefusedError(
                f"it changes engines across nodes ({changed}), which cannot be done step by step: {instead}"
            )
        former = dict(self._duty.specs)
        new = duties.get(self._duty.covers, {})
        shares = {m.name for c in (config, self._current()) for m in c.models if m.share_gpus}
        found = steps(former, new, shares) if self._node.role == "serve" else ()
        if "turn" in arguments:
            turn = self._require_turn(arguments)
            self._prepared = Prepared(turn, config, duties, former, found)
            self._done = []
            self._unproven = {new[step.engine].fingerprint() for step in found}
            self._unproven -= {spec.fingerprint() for spec in former.values()}
            self._files.want(config, node, self._current().models_of(self._node))
        engines: dict[str, int] = {}
        led = [part.spec for part in parts.values() if part.place.rank == 0]
        for spec in (*new.values(), *led) if self._node.role == "serve" else ():
            engines[spec.model] = engines.get(spec.model, 0) + 1
        removed = sorted(former.keys() - new.keys()) if self._node.role == "serve" else []
        return {"steps": msgspec.to_builtins(found), "engines": engines, "removed": removed}

    async def _state(self, _: Mapping[str, Any]) -> Any:
        if self._prepared is None:
            return {"held": {}}
        models = {spec.model for duty in self._prepared.duties.values() for spec in duty.values()}
        return {"held": {m: held.why for m in sorted(models) if (held := self._files.held(m)) is not None}}

    async def _step(self, arguments: Mapping[str, Any]) -> Any:
        prepared = self._require_prepared(arguments)
        if not self._done:
            # Files may have come since, and with them a path of their own.
            duties = await asyncio.to_thread(self._duty.prepare, prepared.config)
            self._prepared = prepared = msgspec.structs.replace(prepared, duties=duties)
            fresh = duties[self._duty.covers]
            self._unproven |= {fresh[s.engine].fingerprint() for s in prepared.steps}
        index = arguments.get("step")
        if not isinstance(index, int) or index != len(self._done) or index >= len(prepared.steps):
            raise RefusedError(f"step {index} is not the next one", 400)
        self._done.append(prepared.steps[index])
        self._duty.mix(mixed(prepared.former, prepared.duties[self._duty.covers], self._done))
        self._on_change()
        return {}

    async def _accept(self, arguments: Mapping[str, Any]) -> Any:
        prepared = self._require_prepared(arguments)
        spec = prepared.duties[self._duty.covers].get(text_of(arguments, "engine"))
        if spec is None:
            raise RefusedError("there is no such engine", 404)
        self._unproven.discard(spec.fingerprint())
        self._on_change()
        return {}

    async def _undo(self, arguments: Mapping[str, Any]) -> Any:
        self._require_prepared(arguments)
        self._go_back()
        return {}

    # -- helpers

    def _go_back(self) -> None:
        """Run what ran before. What did not prove itself stays out of rotation until it is gone."""
        began = bool(self._done)
        self._prepared, self._done = None, []
        self._duty.mix(None)
        self._files.want(self._current(), self._node)
        if began:
            self._events.add(
                f"node {self._node.name} goes back to the engines of the former configuration", "warning"
            )
        self._on_change()

    def _require_turn(self, arguments: Mapping[str, Any]) -> str:
        turn = text_of(arguments, "turn")
        has = self._turns.current(time.monotonic())
        if has is None or has.id != turn:
            raise RefusedError("this turn is over")
        return turn

    def _require_prepared(self, arguments: Mapping[str, Any]) -> Prepared:
        turn = self._require_turn(arguments)
        if self._prepared is None or self._prepared.turn != turn:
            raise RefusedError("nothing was prepared in this turn")
        return self._prepared
