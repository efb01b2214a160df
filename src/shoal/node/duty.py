"""What this node should run now: always the same for a serving node, for a standby what its takeover asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from shoal.cluster.view import EngineReport, View
from shoal.config import Config, Node
from shoal.engine.gpu import Gpu
from shoal.engine.spec import EngineSpec, Tls
from shoal.files import write_whole
from shoal.node import allotment
from shoal.node.errors import StartError
from shoal.node.hub import served_path
from shoal.node.known import known_models
from shoal.node.parts import PlannedPart
from shoal.node.placement import place
from shoal.node.reconcile import Wanted
from shoal.node.specs import engine_spec, planned_part, require_startable
from shoal.node.takeover import Takeover


class Duties(dict[str, dict[str, EngineSpec]]):
    """Engines on one node by id, by the name of the node that they are run for; "" for the node's own.

    Attributes:
        parts: the parts of engines across nodes, likewise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, dict[str, PlannedPart]] = {}


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
        self,
        config: Config,
        node: Node,
        gpus: Sequence[Gpu],
        listen: str,
        tls: Tls | None = None,
    ) -> None:
        self._node = node
        self._gpus = gpus
        self._listen = listen
        self._tls = tls
        self._record = config.state_dir_of(node.name) / "covers"
        self._allotted = allotment.read(config.state_dir_of(node.name))
        self._takeover: Takeover | None = None
        self._mixed: Mapping[str, EngineSpec] | None = None
        self._wanted: tuple[Mapping[str, EngineSpec], dict[str, Wanted]] | None = (
            None  # what is wanted for which specs
        )
        self.takeovers = 0
        """Times this node has taken over for another one."""
        self.configure(config)

    def configure(self, config: Config, prepared: Duties | None = None) -> None:
        """Go by this configuration from now on.

        Args:
            config: the configuration.
            prepared: what `prepare` has returned for it.

        Raises:
            StartError: as above; then the former one stays.
        """
        found = prepared if prepared is not None else self.prepare(config)
        covers = self.covers if self.covers in found else ""
        self._config, self._specs, self._mixed = config, found, None
        self._takeover = Takeover(config, self._node.name, covers) if self._node.role == "standby" else None

    def mix(self, specs: Mapping[str, EngineSpec] | None) -> None:
        """Run these engines for the time being, in place of those of the configuration; None ends that."""
        self._mixed = specs

    def allot(self, allotted: allotment.Allotted) -> None:
        """Run these engines, once `configure` is called; on Ray, where it is not the file that says so."""
        self._allotted = allotted

    def prepare(self, config: Config) -> Duties:
        """Return what `config` would have this node run, by the node it stands in for ("" for none). May block.

        Raises:
            StartError: see the constructor.
        """
        node, state_dir = self._node, config.state_dir_of(self._node.name)
        places = {m.name: served_path(m, config, state_dir) for m in config.models if m.path is not None}
        known = known_models(config, places=places)
        found = Duties()
        for covered, models in config.duties_of(node).items():
            try:
                placements = (
                    allotment.placements(config, models, self._allotted, self._gpus, known)
                    if config.cluster.substrate == "ray"
                    else place(config, node, self._gpus, known, models, stands_for=covered)
                )
                specs = {
                    p.id: engine_spec(p, config, self._listen, self._tls, path=places.get(p.model.name))
                    for p in placements
                }
                require_startable(specs.values(), files_may_come=config.fetches_files)
                parts = {p.id: planned_part(p, specs[p.id], self._gpus) for p in placements if p.nodes}
            except StartError as error:
                if not covered:
                    raise
                raise StartError(f"{node.name} could not take over for {covered}: {error}") from None
            found[covered] = {name: spec for name, spec in specs.items() if name not in parts}
            found.parts[covered] = parts
        return found

    @property
    def covers(self) -> str:
        """Name of the node that this one stands in for, "" for none."""
        return self._takeover.covers if self._takeover else ""

    @property
    def specs(self) -> Mapping[str, EngineSpec]:
        """The engines that should run now on this node alone, by id."""
        return self._specs[self.covers] if self._mixed is None else self._mixed

    @property
    def parts(self) -> Mapping[str, PlannedPart]:
        """The parts of engines across nodes that the node should take now, by the engine's id."""
        return self._specs.parts[self.covers]

    @property
    def wanted(self) -> Mapping[str, Wanted]:
        """The engines that should run now, as the reconcile rules want them: the same object until that changes."""
        specs = self.specs
        if self._wanted is None or self._wanted[0] is not specs:
            self._wanted = specs, {s.id: Wanted(id=s.id, fingerprint=s.fingerprint()) for s in specs.values()}
        return self._wanted[1]

    @property
    def most_engines(self) -> int:
        """How many engines the node may have to run at once."""
        return max(len(specs) + len(self._specs.parts[covered]) for covered, specs in self._specs.items())

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

    def review(
        self, view: View, answers: Mapping[str, bool], now: float, lifelines: Mapping[str, bool] | None = None
    ) -> str | None:
        """Look at the cluster; return the sentence if it changes what this node should run, None else.

        Args:
            view: members and engines.
            answers: whether engines of members that are not alive answer this node's own probes, by full id.
            now: seconds on a steady clock.
            lifelines: whether the processes of such members' parts can be connected to, likewise.
        """
        decision = self._takeover.decide(view, answers, now, lifelines or {}) if self._takeover else None
        if decision is None:
            return None
        self.takeovers += bool(self.covers)
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
            write_whole(self._record, self.covers.encode())
