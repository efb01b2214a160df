"""Applies a configuration to a running cluster: engine by engine, a canary first, and back where one is not good.

The node that gets the order leads. Nothing is remembered anywhere before every engine has proved itself; then the
configuration gets the next generation number, each node is told, and whoever was away learns of it from any other.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shoal.cluster.agreed import Applied
from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, View, full_id
from shoal.config import Config
from shoal.config.diff import Change, changes
from shoal.engine.command import cli_args, key_of
from shoal.node.agreement import Agreement
from shoal.node.canary import Answers, ask, judge, probe_of
from shoal.node.certificates import Certificates
from shoal.node.events import Events
from shoal.node.floor import below_floor
from shoal.node.latencies import LATENCIES, all_latencies
from shoal.node.link import LinkClient, LinkError
from shoal.node.orders import RefusedError
from shoal.node.rollout import ACCEPT, PREPARE, RELEASE, STATE, STEP, TURN, UNDO
from shoal.node.seen import LOOK_EVERY, NotGoodError, Seen
from shoal.node.steps import Step
from shoal.node.story import Planned, Story
from shoal.node.tables import routable
from shoal.node.trial import Terms, Trial
from shoal.node.turn import RENEW_EVERY

_FLOOR_PATIENCE = 30.0  # s for other engines to be there before a step that takes one away
_PREPARE_TIMEOUT = 60.0


class Applying:
    """Applies one configuration.

    Args:
        node: this node's name.
        document: what is to be applied, see `shoal.config.shared`.
        config: it, as a configuration.
        current: the configuration that holds.
        force: go below the capacity floor where it must be.
        terms: what is asked of the canary beyond what is asked of every engine; None for nothing.
        view: returns members and engines.
        answers: returns whether engines of silent members answer, by full id.
        client: asks nodes, this one included.
        certificates: for connections to engines.
        agreement: gets the configuration in the end.
        events: gets the story, too.
    """

    def __init__(
        self,
        node: str,
        document: Mapping[str, Any],
        config: Config,
        current: Config,
        *,
        force: bool,
        terms: Terms | None = None,
        view: Callable[[], View],
        answers: Callable[[], Mapping[str, bool]],
        client: LinkClient,
        certificates: Certificates,
        agreement: Agreement,
        events: Events,
    ) -> None:
        self._node = node
        self._document = dict(document)
        self._config = config
        self._current = current
        self._force = force
        self._terms = terms
        self._view = view
        self._answers = answers
        self._client = client
        self._certificates = certificates
        self._agreement = agreement
        self._events = events
        self._nodes: list[str] = []
        self._new: set[str] = set()
        self._seen = Seen(view)
        self.story = Story(secrets.token_hex(8))

    # -- before anything changes

    def differences(self) -> tuple[Change, ...]:
        """Return what would change.

        Raises:
            RefusedError: something cannot be applied.
        """
        found = changes(self._current, self._config)
        refused = [change.what for change in found if change.effect == "refused"]
        if refused:
            raise RefusedError("; ".join(refused))
        return found

    async def plan(self) -> tuple[Planned, ...]:
        """Return what each node would do, without doing any of it.

        Raises:
            RefusedError: one of them refuses, or too little would serve.
        """
        return await self._prepare({})

    async def begin(self) -> None:
        """Take the turn on every node that lives.

        Raises:
            RefusedError: somebody else has it, a node does not answer, or this node is probably cut off.
        """
        view = self._view()
        if view.isolated and not self._force:
            raise RefusedError(
                "most nodes vanished at once: this node is probably cut off; `--force` does it here"
            )
        for member in view.members:
            if member.state is not MemberState.ALIVE:
                continue
            try:
                await self._client.ask(member, "POST", TURN, self._turn)
            except LinkError as error:
                await self._release()
                raise RefusedError(f"node {member.name}: {error}") from None
            self._nodes.append(member.name)

    # -- doing it

    async def run(self) -> None:
        """Apply it, or roll it back; the story says how it went. To be called after `begin`."""
        renewing = asyncio.create_task(self._renew())
        began: list[str] = []
        try:
            self._say(f"{self._node} applies a configuration on {len(self._nodes)} nodes")
            try:
                planned = await self._prepare({"turn": self.story.id})
            except RefusedError as error:
                self._end("refused", f"nothing was changed: {error}", "error")
                return
            try:
                await self._files_there()
                await self._steps(planned, began)
                self._all_good()
                generation = await self._commit()
            except (NotGoodError, LinkError, RefusedError) as error:
                self._say(f"the configuration is rolled back: {error}", "error")
                await self._roll_back(began)
                self._end("rolled back", "the former configuration holds, as before", "warning")
                return
            count = sum(len(p.removed) for p in planned)
            more = f"; {count} engine{'s' * (count != 1)} that nobody wants finish and stop" if count else ""
            self._end("applied", f"generation {generation} of the configuration holds on every node{more}")
        except Exception as error:
            self._end("rolled back", f"applying failed by itself: {error!r}; please report this", "error")
            raise
        finally:
            renewing.cancel()
            await self._release()

    async def _prepare(self, more: Mapping[str, Any]) -> tuple[Planned, ...]:
        """Ask every node what it would do.

        Raises:
            RefusedError: as for `plan`.
        """
        names = self._nodes or [m.name for m in self._view().members if m.state is MemberState.ALIVE]
        planned = []
        engines: Counter[str] = Counter()
        for name in names:
            try:
                told = await self._ask(
                    name, "POST", PREPARE, {"document": self._document, **more}, timeout=_PREPARE_TIMEOUT
                )
            except (LinkError, NotGoodError) as error:
                raise RefusedError(f"node {name}: {error}") from None
            engines.update(told["engines"])
            found = tuple(msgspec.convert(step, Step) for step in told["steps"])
            planned.append(Planned(name, found, tuple(told["removed"])))
        known = {m.name for m in self._current.models}
        for model in self._config.models:
            # On Ray a model that is new gets its engines when its configuration holds.
            later = self._config.cluster.substrate == "ray" and model.name not in known
            least = model.min_engines if model.engine != "external" and not later else 0
            if engines[model.name] < least and not self._force:
                raise RefusedError(
                    f"model {model.name} would have {engines[model.name]} engines, and `min_engines` asks for {least}"
                )
        if not self._force:
            self._require_floor(planned)
        return tuple(planned)

    def _require_floor(self, planned: list[Planned]) -> None:
        """Refuse what could not be done without going below the floor, even with everything else in rotation."""
        for one in planned:
            for step in one.steps:
                problem = self._below_floor(one.node, step)
                added = any(not s.replaces and s.model == step.model for p in planned for s in p.steps)
                if problem is not None and not added:
                    raise RefusedError(
                        f"while engine {full_id(one.node, step.engine)} is replaced, {problem}; `--force` does it all "
                        "the same"
                    )

    async def _files_there(self) -> None:
        """Wait until every node has the files of the models it is to run."""
        told = ""
        while True:
            held: dict[str, str] = {}
            for name in self._nodes:
                state = await self._ask(name, "GET", STATE)
                held |= {f"{name}: model {model}": str(why) for model, why in state["held"].items()}
            if not held:
                return
            where = ", ".join(sorted(held))
            if where != told:
                told = where
                first, why = next(iter(sorted(held.items())))
                more = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
                self._say(f"waits for files: {first} {why}{more}")
            lasting = [f"{n}: {why}" for n, why in held.items() if "no other node has it" in why]
            if len(lasting) == len(held):
                raise NotGoodError(f"files are missing everywhere: {lasting[0]}")
            await asyncio.sleep(1)

    async def _steps(self, planned: tuple[Planned, ...], began: list[str]) -> None:
        canary = True
        for one in sorted(planned, key=lambda p: (all(s.replaces for s in p.steps), p.node)):
            for index, step in enumerate(one.steps):
                await self._wait_for_floor(one.node, step)
                if one.node not in began:
                    began.append(one.node)
                await self._step(one.node, index, step, canary=canary)
                canary = False

    async def _step(self, node: str, index: int, step: Step, *, canary: bool) -> None:
        name = full_id(node, step.engine)
        role = "canary: " if canary else ""
        verb = "is replaced" if step.replaces else "starts"
        stops = f", in place of {', '.join(step.stops)}" if step.stops else ""
        self._say(f"{role}engine {name} {verb}{stops}")
        before = self._seen.report(node, step.engine)
        former = await self._former(step.model)
        await self._ask(node, "POST", STEP, {**self._turn, "step": index})
        limit = self._current.engines.start_timeout + self._current.recovery.drain_timeout
        ready = await self._seen.ready(node, step.engine, before, limit)
        answers = await ask(ready, self._certificates, _key(self._config, step.model))
        problem = judge(answers, former)
        if problem is not None:
            raise NotGoodError(f"engine {name} is not good: {problem}")
        trial = self._trial(step.model) if canary else None
        if trial is not None:
            await trial.answers(name, ready)
        await self._ask(node, "POST", ACCEPT, {**self._turn, "engine": step.engine})
        self._new.add(name)
        compared = " as the former one does" if former is not None and former.texts == answers.texts else ""
        self._say(f"{role}engine {name} is ready, answers{compared}, and gets requests")
        if trial is not None:
            await trial.live(name, lambda: self._seen.works(node, ready))

    async def _former(self, model: str) -> Answers | None:
        """Ask an engine that serves the model now, to compare with."""
        for name, report in routable(self._view(), self._answers()):
            if report.model == model and name not in self._new:
                return await ask(report, self._certificates, _key(self._current, model))
        return None

    def _trial(self, model: str) -> Trial | None:
        """Return what a canary of a model has to go through."""
        if self._terms is None:
            return None

        def others() -> list[tuple[str, EngineReport]]:
            found = routable(self._view(), self._answers())
            return [(name, r) for name, r in found if r.model == model and name not in self._new]

        return Trial(
            self._terms,
            others=others,
            probe=lambda engine: probe_of(engine, self._certificates, _key(self._current, model)),
            latencies=lambda: all_latencies(self._nodes, lambda node: self._ask(node, "GET", LATENCIES)),
            say=self._say,
        )

    def _all_good(self) -> None:
        """Look once more at every engine that is new."""
        for name in self._new:
            node, _, engine = name.partition("/")
            report = self._seen.report(node, engine)
            if report is None or report.state is not EngineState.READY:
                raise NotGoodError(
                    f"engine {name} is {report.state if report else 'gone'} after it was ready"
                )

    async def _commit(self) -> int:
        stamp = time.time_ns() // 1_000_000
        generation = self._agreement.state.generation + 1
        applied = Applied(generation=generation, stamp=stamp, by=self._node, document=self._document)
        self._agreement.apply(applied)
        await self._agreement.tell_all()
        return generation

    async def _roll_back(self, began: list[str]) -> None:
        """Have one node after the other go back, the last one first, and wait until it serves again."""
        for name in reversed(began):
            try:
                await self._ask(name, "POST", UNDO, self._turn)
            except (LinkError, NotGoodError) as error:
                self._say(
                    f"node {name} cannot be told to go back, and does by itself soon: {error}", "warning"
                )
                continue
            settle = 2 * self._current.cluster.heartbeat_interval
            if not await self._seen.serve_again(name, settle, self._current.engines.start_timeout):
                self._say(f"the former engines of {name} are not all ready yet", "error")

    # -- helpers

    @property
    def _turn(self) -> dict[str, Any]:
        return {"turn": self.story.id, "by": self._node}

    def _below_floor(self, node: str, step: Step) -> str | None:
        kept = {m.name for m in self._config.models}
        view = self._view()
        models = {full_id(m.name, e.id): e.model for m, e in view.engines()}
        ids = [full_id(node, i) for i in (*([step.engine] if step.replaces else []), *step.stops)]
        gone = [i for i in ids if models.get(i) in kept]
        return below_floor(self._current, view, self._answers(), gone)

    async def _wait_for_floor(self, node: str, step: Step) -> None:
        end = time.monotonic() + _FLOOR_PATIENCE
        while not self._force and (problem := self._below_floor(node, step)) is not None:
            if time.monotonic() > end:
                raise NotGoodError(f"engine {full_id(node, step.engine)} cannot be replaced: {problem}")
            await asyncio.sleep(LOOK_EVERY)

    async def _ask(
        self,
        node: str,
        method: str,
        path: str,
        arguments: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
    ) -> Any:
        return await self._client.ask(self._member(node), method, path, arguments, timeout=timeout)

    def _member(self, node: str) -> Member:
        member = self._view().member(node)
        if member is None:
            raise NotGoodError(f"node {node} is gone")
        return member

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            await asyncio.gather(
                *(self._ask(name, "POST", TURN, self._turn) for name in self._nodes), return_exceptions=True
            )

    async def _release(self) -> None:
        await asyncio.gather(
            *(self._ask(name, "POST", RELEASE, self._turn) for name in self._nodes), return_exceptions=True
        )

    def _say(self, sentence: str, level: str = "info") -> None:
        self._events.add(f"apply: {sentence}", level)
        self.story.tell(sentence)

    def _end(self, state: str, sentence: str, level: str = "info") -> None:
        self._say(sentence, level)
        self.story.state = state


def _key(config: Config, model: str) -> str | None:
    """Return the API key that engines of a model ask for, None if they ask for none."""
    for found in config.models:
        if found.name == model:
            return key_of(cli_args(found.args), found.env, os.environ)
    return None
