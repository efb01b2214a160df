"""The carrier through a message broker: hands calls to its queues, and what they deliver to this node's engines."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any

from shoal.transport.contract import Answer, Call, CarrierError, Handler
from shoal.transport.queued.asking import Action, Asking, Fail, Give, Send, Tell
from shoal.transport.queued.broker import AwayError, Broker, QueueSettings
from shoal.transport.queued.execution import Execution
from shoal.transport.queued.frames import (
    Alive,
    Attempt,
    Broken,
    Cancel,
    FormatError,
    Go,
    Taken,
    frame_in,
    request_of,
)
from shoal.transport.queued.names import BATCH, class_of
from shoal.transport.queued.replies import Reply
from shoal.transport.queued.serving import Delivery, Refusal, Serving

_TICK = 0.25  # s
_ALIVE = 1.0  # s after which a busy node says that it is
_LAST_CALLS = 1.0  # s that calls under way have at the end: a node that drains has waited for them before;
_LAST_WORDS = 0.5  # and s for the broker to be told

Slots = Callable[[], Mapping[str, int]]
"""Returns how many requests the engines of this node have room for, by model."""


class QueuedCarrier:
    """Calls go into a queue of their model; nodes that have room take them from it. See `contract.Carrier`.

    Ordinary calls fail at once where the broker is away, so that they go another way; those of batches wait for it.

    Args:
        settings: of the broker and the node.
        make: returns a connection to the broker, that asks the given `Serving` what this node wants.
        handler: asks an engine of this node.
        slots: how much room there is here.
        models: returns all models of the cluster.
        notice: told what people should know.
    """

    def __init__(
        self,
        settings: QueueSettings,
        make: Callable[[QueueSettings, Serving], Broker],
        *,
        handler: Handler,
        slots: Slots,
        models: Callable[[], Collection[str]],
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._handler = handler
        self._slots = slots
        self._models = models
        self._notice = notice
        self._serving = Serving(redeliveries=settings.redeliveries)
        self._asking = Asking(redeliveries=settings.redeliveries, silence=settings.silence)
        self._broker = make(settings, self._serving)
        self._declared: set[str] = set()
        self._calls: dict[str, tuple[Call, Reply]] = {}
        self._running: dict[str, tuple[Execution, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._token = os.urandom(6).hex()
        self._numbers = itertools.count()
        self._ticking: asyncio.Task[None] | None = None
        self._less = asyncio.Event()  # there is less to wait for at the end
        self._closing = False
        self._trouble: str | None = "it has not been started"

    @property
    def trouble(self) -> str | None:
        """Why calls cannot be carried just now, None where they can."""
        return self._trouble

    async def start(self) -> None:
        """Connect, and begin to serve.

        Raises:
            CarrierError: the broker is not to be had; says what was tried.
        """
        models = set(self._models())
        self._serving.offer(dict(self._slots()))
        await self._broker.open(self, models)
        self._declared = models
        self._trouble = None
        self._closing = False
        self._ticking = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Take nothing more, let what is under way end, and give everything back."""
        self._closing = True
        self._serving.offer({})
        self._serving.drop_waiting()
        self._broker.adjust()
        await self._until(lambda: not self._running and not self._calls, _LAST_CALLS)
        self._trouble = "the node stops"
        self._do(self._asking.end("the node stops"))
        for execution, task in self._running.values():
            execution.settles = False
            task.cancel()
        if self._ticking is not None:
            self._ticking.cancel()
        await self._until(lambda: not self._running and not self._tasks, _LAST_WORDS)
        await self._broker.close()

    async def call(self, call: Call) -> Answer:
        """Return the answer of whichever engine of the call's model has room first.

        Raises:
            CarrierError: there is none.
        """
        patient = class_of(call.priority) == BATCH
        if self._trouble is not None and (self._closing or not patient):
            raise CarrierError(self._trouble, unsent=True)
        if call.model not in self._declared:
            raise CarrierError(f'there is no queue for model "{call.model}"', unsent=True)
        if call.deadline is not None and time.time() >= call.deadline:
            raise CarrierError("the request's deadline is over", unsent=True)
        reply = Reply(lambda: self._close(call.id))
        self._calls[call.id] = call, reply
        self._asking.open(call.id, patient=patient, deadline=call.deadline)
        if self._trouble is None:
            self._spawn(self._send(call, reply, 0))
        try:
            return await reply.answer
        except BaseException:
            self._close(call.id)
            raise

    # -- told by the broker

    def delivered(self, delivery: Delivery) -> None:
        """Take a request."""
        if self._closing:
            return  # it goes to others when the connection ends
        refusal = self._serving.arrive(delivery, time.time())
        if refusal is not None:
            self._spawn(self._refuse(refusal))
        self._advance()

    def framed(self, data: bytes) -> None:
        """Take a message of the inbox."""
        try:
            frame = frame_in(data)
        except FormatError as error:
            self._notice(f"the broker delivered what is not understood: {error}")
            return
        if isinstance(frame, Cancel):
            self._cancel(frame)
            return
        if isinstance(frame, Go):
            if (found := self._running.get(frame.token)) is not None:
                found[0].may_begin.set()
            return
        if isinstance(frame, Taken):
            self._broker.taken(frame.attempt.id, frame.attempt.inbox)
        self._do(self._asking.receive(frame, asyncio.get_running_loop().time()))

    def lost(self, why: str) -> None:
        """Stop what cannot be answered; the broker delivers it again."""
        self._trouble = why
        self._serving.drop_waiting()
        for execution, task in self._running.values():
            execution.settles = False
            task.cancel()
        self._do(self._asking.lost(why))

    def restored(self) -> None:
        """Go on."""
        self._trouble = None
        self._do(self._asking.restored())

    def notice(self, text: str) -> None:
        """Pass on what people should know."""
        self._notice(text)

    # -- the asking end

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Give(frame):
                    self._give(frame.attempt.id, action)
                case Fail(id, why, unsent, dead):
                    self._fail(id, why, unsent=unsent, dead=dead)
                case Tell(inbox, frame):
                    self._spawn(self._tell(inbox, frame))
                case Send(id, number, deadline):
                    call, reply = self._calls[id]
                    self._spawn(self._send(replace(call, deadline=deadline), reply, number))

    def _give(self, id: str, action: Give) -> None:  # noqa: A002
        _, reply = self._calls[id]
        if not reply.feed(action.frame):
            self._do([*self._asking.close(id), Fail(id, "its reader is too slow")])
        elif action.frame.last:
            self._over(id)

    def _fail(self, id: str, why: str, *, unsent: bool, dead: bool) -> None:  # noqa: A002
        found = self._calls.get(id)
        if found is None:
            return
        call, reply = found
        reply.fail(CarrierError(why, unsent=unsent))
        if dead:
            self._spawn(self._broker.bury(request_of(call, 0, self._broker.inbox), why))
        self._over(id)

    def _close(self, id: str) -> None:  # noqa: A002
        """Nobody waits for this answer."""
        self._do(self._asking.close(id))
        self._over(id)

    def _over(self, id: str) -> None:  # noqa: A002
        self._calls.pop(id, None)
        self._broker.over(id)
        self._less.set()

    async def _send(self, call: Call, reply: Reply, number: int) -> None:
        try:
            await self._broker.send(request_of(call, number, self._broker.inbox))
        except AwayError as error:
            if class_of(call.priority) != BATCH:
                self._asking.forget(call.id)
                reply.fail(error)
        except CarrierError as error:
            self._asking.forget(call.id)
            reply.fail(error)

    async def _tell(self, inbox: str, frame: Cancel | Go) -> None:
        with contextlib.suppress(AwayError):
            await self._broker.tell(inbox, frame)

    # -- the serving end

    def _advance(self) -> None:
        """Begin with what may begin."""
        for item in self._serving.next(time.time()):
            if isinstance(item, Refusal):
                self._spawn(self._refuse(item))
            else:
                self._begin(item)
        self._broker.adjust()

    def _begin(self, delivery: Delivery) -> None:
        execution = Execution(delivery, self._attempt(delivery), self._broker, self._handler)
        task = asyncio.create_task(execution.run())
        self._running[execution.attempt.token] = execution, task
        task.add_done_callback(lambda done: self._ended(execution, done))

    def _attempt(self, delivery: Delivery) -> Attempt:
        request = delivery.request
        token = f"{self._token}-{next(self._numbers)}"
        return Attempt(request.id, request.round, delivery.before, token, self._broker.inbox)

    def _ended(self, execution: Execution, task: asyncio.Task[None]) -> None:
        del self._running[execution.attempt.token]
        self._less.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._notice(f"a request could not be executed: {error!r}")
        self._serving.done(execution.delivery)
        if execution.settles:
            self._spawn(self._broker.settle(execution.delivery))
        self._advance()

    async def _refuse(self, refusal: Refusal) -> None:
        request = refusal.delivery.request
        if refusal.why:
            await self._broker.bury(request, refusal.why)
            unsent = not refusal.delivery.before  # else a node that died may have begun with it
            broken = Broken(self._attempt(refusal.delivery), refusal.why, unsent=unsent)
            with contextlib.suppress(AwayError):
                await self._broker.tell(request.inbox, broken)
        await self._broker.settle(refusal.delivery)

    def _cancel(self, frame: Cancel) -> None:
        if not frame.token:
            self._serving.cancel(frame.id)
        for execution, task in list(self._running.values()):
            if execution.attempt.id == frame.id and frame.token in ("", execution.attempt.token):
                task.cancel()

    # -- time

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK)
            if self._trouble is None:
                self._do(self._asking.tick(loop.time(), time.time()))
                self._say_alive(loop.time())
            if not self._closing:
                self._serving.offer(dict(self._slots()))
                await self._declare()
            self._advance()

    def _say_alive(self, now: float) -> None:
        silent: dict[str, list[Attempt]] = {}
        for execution, _ in self._running.values():
            if now - execution.said >= _ALIVE:
                execution.said = now
                silent.setdefault(execution.delivery.request.inbox, []).append(execution.attempt)
        for inbox, attempts in silent.items():
            self._spawn(self._alive(inbox, Alive(tuple(attempts))))

    async def _alive(self, inbox: str, frame: Alive) -> None:
        with contextlib.suppress(AwayError):
            if not await self._broker.tell(inbox, frame):
                for attempt in frame.attempts:
                    self._cancel(Cancel(attempt.id, attempt.token))

    async def _declare(self) -> None:
        """Make the queues of models that are new."""
        if self._trouble is None and (new := set(self._models()) - self._declared):
            try:
                await self._broker.declare(new)
            except CarrierError as error:
                self._notice(str(error))
                return
            self._declared |= new

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._less.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._notice(f"a message could not be handled: {error!r}")

    async def _until(self, over: Callable[[], bool], limit: float) -> None:
        """Return when there is nothing left of something, at the latest after `limit` s."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not over():
                    self._less.clear()
                    await self._less.wait()
