"""The parts of a node that let the fleet change while it serves, wired together; the node process has one of these."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from shoal.cluster.agreed import Agreed
from shoal.cluster.signing import Signer
from shoal.cluster.throttle import Throttle
from shoal.cluster.view import NodeReport, View
from shoal.config import Config, Node
from shoal.config.shared import DocumentError, shared, with_local
from shoal.engine.spec import Tls
from shoal.gateway.outcomes import Outcome
from shoal.gateway.trace import Explained
from shoal.node import latencies
from shoal.node.agreed_store import AgreedStore, Kept, with_joined
from shoal.node.agreement import Agreement
from shoal.node.allotment import Allotment, Allotted
from shoal.node.apply_orders import ApplyOrders
from shoal.node.applying import Applying
from shoal.node.certificates import Certificates
from shoal.node.duty import Duty
from shoal.node.events import Events
from shoal.node.events_everywhere import all_events
from shoal.node.explaining import Explaining
from shoal.node.file_link import FileServer
from shoal.node.fleet import Fleet
from shoal.node.held import held_reports
from shoal.node.in_turn import InTurn
from shoal.node.link import LinkClient, LinkServer
from shoal.node.log_reading import LogReading
from shoal.node.model_files import ModelFiles
from shoal.node.orders import Handler, signed_routes
from shoal.node.rollout import Rollout
from shoal.node.trial import Terms


class Beginning(NamedTuple):
    """What a node starts with; see `begin_with`.

    Attributes:
        file: the configuration of its file; of a node that joined, one with its local settings.
        base: its configuration without the nodes that joined.
        kept: what was on its disk.
        sentence: about where `base` is from, "" where there is nothing to say.
    """

    file: Config
    base: Config
    kept: Kept
    sentence: str = ""


class Surrounding(NamedTuple):
    """What these parts need of the rest of the node.

    Attributes:
        node: the node.
        listen: numeric address it listens on.
        advertised: address other nodes reach its engines at.
        tls: certificates that its ports show and demand, None for plain HTTP.
        certificates: for connections to others.
        duty: what it runs.
        events: gets sentences.
        view: returns members and engines.
        answers: returns whether engines of silent members answer, by full id.
        outcomes: returns what became of its gateway's requests: (model, engine's full id, outcome).
        configure: called with another configuration to go by.
        renew: called when what the node should run has changed.
        moved: called when engines are to be started with other paths.
        announce: called when its report has changed.
        leave: called when it is to leave for good and the others know.
        remembered: returns what its gateway remembers of a request's name.
    """

    node: Node
    listen: str
    advertised: str
    tls: Tls | None
    certificates: Certificates
    duty: Duty
    events: Events
    view: Callable[[], View]
    answers: Callable[[], Mapping[str, bool]]
    configure: Callable[[Config], None]
    renew: Callable[[], None]
    moved: Callable[[], None]
    announce: Callable[[], None]
    leave: Callable[[], None]
    outcomes: Callable[[], Sequence[tuple[str, str, Outcome]]]
    remembered: Callable[[str], Awaitable[Sequence[Explained]]]


class FleetParts:
    """The link to other nodes, and what goes over it.

    Attributes:
        base: the configuration without the nodes that joined.
        config: the configuration.
        drained: the node's engines are out of rotation.
        files: the files of its models.
        replacing: as in `NodeReport`; the node process sets it.
        more: what else answers other nodes, by method and path; to be filled before `work`.
        told: what else answers operators and other nodes alike; to be filled before `order_routes` and `work`.
        rollout: its part in applying configurations.
        explaining: what became of requests.

    Raises:
        StartError: no port is free for the link.
    """

    def __init__(self, begin: Beginning, around: Surrounding) -> None:
        node, events = around.node, around.events
        self._around = around
        self._file = begin.file
        self.base = begin.base
        self._hashed: tuple[Config, str] | None = None  # a configuration with its hash
        self.config = with_joined(begin.base, begin.kept.agreed, node.name)
        cluster, state_dir = self.config.cluster, self.config.state_dir_of(node.name)
        self.more: dict[tuple[str, str], Handler] = {}
        self.told: dict[tuple[str, str], Handler] = {}
        self._throttle = Throttle()
        self._in_turn = InTurn(self.config.engines.start_timeout)
        self.replacing = ""
        self._signer = Signer(cluster.name, cluster.secret, time.time)
        self._link = LinkServer(node.name, around.listen, self.config.engines.ports, around.tls)
        self._client = LinkClient(self._signer, around.certificates)
        self._agreement = Agreement(
            node.name,
            AgreedStore(state_dir),
            begin.kept,
            base=lambda: self.base,
            view=around.view,
            client=self._client,
            events=events,
            on_change=self._on_agreed,
        )
        self.files = ModelFiles(
            state_dir,
            view=around.view,
            signer=self._signer,
            certificates=around.certificates,
            events=events,
            on_change=around.announce,
            on_moved=around.moved,
        )
        self.files.want(self.config, node)
        self.rollout = Rollout(
            node,
            around.duty,
            self.files,
            configured=self._configured,
            current=lambda: self.config,
            events=events,
            on_change=around.renew,
        )
        self._orders = Fleet(
            node.name,
            state_dir,
            config=lambda: self.config,
            view=around.view,
            answers=around.answers,
            client=self._client,
            events=events,
            on_change=around.announce,
            leave=self._leave,
        )
        self._allotment = Allotment(
            node.name,
            state_dir,
            config=lambda: self.config,
            view=around.view,
            outcomes=around.outcomes,
            events=events,
            busy=lambda: self.rollout.led or self.rollout.under_way,
            on_change=self._on_allotted,
            forget=self._agreement.forget,
        )
        self._applies = ApplyOrders(self._make_applying, self._configured, self._completed)
        self.explaining = Explaining(node.name, around.remembered, around.view, self._client)
        self._logs = LogReading(node.name, state_dir, around.view, self._client)
        if begin.sentence:
            events.add(begin.sentence)

    @property
    def drained(self) -> bool:
        """The node's engines are out of rotation."""
        return self._orders.drained

    @property
    def client(self) -> LinkClient:
        """Asks other nodes."""
        return self._client

    @property
    def orders(self) -> Fleet:
        """The orders that concern one node."""
        return self._orders

    @property
    def logs(self) -> LogReading:
        """Reads logs, here and elsewhere."""
        return self._logs

    @property
    def link(self) -> dict[str, Any]:
        """Where the link is, for a node that wants to join."""
        return {"link": self._link.port, "link_authority": self._link.authority}

    def order_routes(self) -> list[Any]:
        """Return the routes for orders that operators give."""
        handlers = self._orders.handlers() | self._applies.handlers() | self._logs.handlers()
        return self._signed(handlers | self._allotment.handlers() | self.told)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what has to run as long as the node does; `stop` ends the first of them."""
        files = FileServer(self.files.offers, self._signer, self._on_unsigned)
        handlers = {
            **self._orders.handlers(),
            **self._agreement.handlers(),
            **self.rollout.handlers(),
            **files.handlers(),
            **self._logs.handlers(),
            **self.more,
            **latencies.handlers(self._around.outcomes),
            **self.told,
            **self.explaining.handlers(),
            ("GET", "/shoal/v1/events"): self._tell_events,
        }
        return [self._link.serve([*self._signed(handlers), *files.routes()]), self.files.run()]

    def stop(self) -> None:
        """Stop answering other nodes."""
        self._link.stop()

    def hear(self, view: View) -> None:
        """Look at what other nodes say that they know."""
        self._agreement.hear(view)

    def completed(self, report: NodeReport, fingerprints: Mapping[str, str]) -> NodeReport:
        """Return the node's report with what these parts have to say.

        Args:
            report: all the rest.
            fingerprints: of the engines that run, by id.
        """
        engines = self.rollout.marked(report.engines, fingerprints)
        held = held_reports(
            self._around.duty.specs.values(),
            self.files.held,
            {e.id for e in engines},
            self._around.advertised,
            time.monotonic(),
        )
        return msgspec.structs.replace(
            report,
            config_hash=self._config_hash(),
            drained=self.drained,
            link=self._link.port,
            link_authority=self._link.authority,
            agreed=self._agreement.digest,
            generation=self._agreement.state.generation,
            replacing=self.replacing,
            files=self.files.digests(),
            engines=(*engines, *held),
        )

    def _config_hash(self) -> str:
        """Return the hash of `base`; it takes as long as the rest of a report, so each configuration's is kept."""
        if self._hashed is None or self._hashed[0] is not self.base:
            self._hashed = self.base, self.base.agreed_hash()
        return self._hashed[1]

    def waits_to_replace(self, view: View, now: float) -> bool:
        """Return whether it is another node's turn to replace engines; `replacing` is to be up to date.

        Args:
            view: members.
            now: seconds on a steady clock.
        """
        waits = self._in_turn.waits(view, self._agreement.state.generation, self.replacing, now)
        return waits and not self.rollout.led

    async def all_events(self, own: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
        """Return the last `count` events of all nodes that answer, with those of this one."""
        return await all_events(self._around.view(), self._client, own, count)

    # -- what the parts tell each other

    def _configured(self, document: Mapping[str, Any]) -> Config:
        """Return the configuration that a document is here; raise DocumentError if it is none."""
        return with_joined(with_local(document, self._file), self._agreement.state, self._around.node.name)

    def _completed(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a document to apply; on Ray with the nodes that there are, for a file's stand for none."""
        if self.config.cluster.substrate != "ray":
            return document
        cluster = {**document.get("cluster", {}), "substrate": "ray"}
        return {**document, "nodes": shared(self.base)["nodes"], "cluster": cluster}

    def _on_agreed(self, former: Agreed, present: Agreed) -> None:
        """Go by what the cluster agreed on: who joined or left, and what was applied."""
        applied, events = present.applied, self._around.events
        if applied is not None and applied != former.applied:
            generation = f"generation {applied.generation} of the configuration"
            try:
                self.base = with_local(applied.document, self._file)
                events.add(f"{generation} holds, applied by way of {applied.by}")
            except DocumentError as error:
                events.add(f"{generation}, applied by way of {applied.by}, is none here: {error}", "error")
        for name, entry in present.joined.items():
            known = former.joined.get(name)
            if entry.present != (known.present if known else self.base.node(name) is not None):
                how = (
                    "belongs to the cluster from now on" if entry.present else "has left the cluster for good"
                )
                events.add(f"node {name} {how}")
        self.config = with_joined(self.base, present, self._around.node.name)
        self._around.configure(self.config)

    def _make_applying(
        self, document: Mapping[str, Any], config: Config, force: bool, terms: Terms | None
    ) -> Applying:
        return Applying(
            self._around.node.name,
            document,
            config,
            self.config,
            force=force,
            terms=terms,
            view=self._around.view,
            answers=self._around.answers,
            client=self._client,
            certificates=self._around.certificates,
            agreement=self._agreement,
            events=self._around.events,
        )

    def _on_allotted(self, allotted: Allotted) -> None:
        self._around.duty.allot(allotted)
        self._around.moved()

    async def _leave(self) -> None:
        await self._agreement.leave()
        self._around.leave()

    async def _tell_events(self, arguments: Mapping[str, Any]) -> Any:
        count = str(arguments.get("count", ""))
        last = self._around.events.last(int(count) if count.isascii() and count.isdecimal() else 50)
        return [msgspec.to_builtins(event) for event in last]

    def _signed(self, handlers: Mapping[tuple[str, str], Handler]) -> list[Any]:
        return list(signed_routes(handlers, self._signer, self._on_unsigned))

    def _on_unsigned(self, sentence: str) -> None:
        if self._throttle.allow(sentence, time.monotonic()):
            self._around.events.add(sentence, "warning")
