"""What this node should run now: always the same for a serving node, for a standby what its takeover asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from shoal.cluster.view import EngineReport, View
from shoal.config import Config, Node
from shoal.engine.gpu import Gpu
from shoal.engine.spec import EngineSpec, Tls
from shoal.node.errors import StartError
from shoal.node.known import known_models
from shoal.node.placement import place
from shoal.node.reconcile import Wanted
from shoal.node.specs import engine_spec, require_startable
from shoal.node.takeover import Takeover


class Duty:
    """The engines a node should run, and which of them get requests.

    All that may ever be asked of a standby node is worked out and checked at the start, so that a takeover fails at
    nothing that could have been told before.

    Args:
        config: the configuration.
        node: the node of it that this process is.
        gpus: GPUs of this machine that may be used.
        listen: numeric address engines listen on.
        tls: how they speak TLS, None if they do not.

    Raises:
        StartError: engines cannot be placed or started as the file says, on a standby for any node it may stand in for.
    """

    def __init__(
        self, config: Config, node: Node, gpus: Sequence[Gpu], listen: str, tls: Tls | None = None
    ) -> None:
        known = known_models(config)
        self._config = config
        self._node = node
        self._record = config.state_dir_of(node.name) / "covers"
        self._specs: dict[str, dict[str, EngineSpec]] = {}
        for covered, models in config.duties_of(node).items():
            try:
                placements = place(config, node, gpus, known, models)
                specs = {p.id: engine_spec(p, config, listen, tls) for p in placements}
                require_startable(specs.values())
            except StartError as error:
                if not covered:
                    raise
                raise StartError(f"{node.name} could not take over for {covered}: {error}") from None
            self._specs[covered] = specs
        self._takeover = Takeover(config, node.name) if node.role == "standby" else None

    @property
    def covers(self) -> str:
        """Name of the node that this one stands in for, "" for none."""
        return self._takeover.covers if self._takeover else ""

    @property
    def specs(self) -> Mapping[str, EngineSpec]:
        """The engines that should run now, by id."""
        return self._specs[self.covers]

    @property
    def wanted(self) -> dict[str, Wanted]:
        """The engines that should run now, as the reconcile rules want them."""
        return {s.id: Wanted(id=s.id, fingerprint=s.fingerprint()) for s in self.specs.values()}

    @property
    def most_engines(self) -> int:
        """How many engines the node may have to run at once."""
        return max(map(len, self._specs.values()))

    def resume(self, adopted: bool) -> str | None:
        """Go on standing in for the node an earlier process of this one stood in for; return the sentence about it.

        Args:
            adopted: that process's engines were found running: they would be stopped and started again otherwise.
                Where there are none, the note is old.
        """
        if not adopted:
            self.forget()
            return None
        with contextlib.suppress(OSError, UnicodeDecodeError):
            covered = self._record.read_text()
            if self._takeover and covered in self._specs and covered:
                self._takeover = Takeover(self._config, self._node.name, covered)
                return f"standby {self._node.name} goes on standing in for {covered}, as before its restart"
        return None

    def review(self, view: View, answers: Mapping[str, bool], now: float) -> str | None:
        """Look at the cluster; return the sentence if it changes what this node should run, None else.

        Args:
            view: members and engines.
            answers: whether engines of members that are not alive answer this node's own probes, by full id.
            now: seconds on a steady clock.
        """
        decision = self._takeover.decide(view, answers, now) if self._takeover else None
        if decision is None:
            return None
        self._remember()
        return decision.reason

    def forget(self) -> None:
        """Leave no trace of a takeover: this node stops on purpose, and its engines with it."""
        with contextlib.suppress(OSError):
            self._record.unlink(missing_ok=True)

    def marked(self, reports: Sequence[EngineReport]) -> tuple[EngineReport, ...]:
        """Return the reports of this node's engines, those marked that a hot standby keeps as spares."""
        if not self._node.is_hot:
            return tuple(reports)
        covered = self._config.node(self.covers)
        served = {m.name for m in self._config.models_of(covered)} if covered else set()
        return tuple(msgspec.structs.replace(r, standby=r.model not in served) for r in reports)

    def _remember(self) -> None:
        """Write down for whom this node stands in. Losing the note costs a restart of engines, so errors are let be."""
        with contextlib.suppress(OSError):
            if not self.covers:
                self.forget()
                return
            new = self._record.with_suffix(".new")
            new.write_text(self.covers)
            new.replace(self._record)
