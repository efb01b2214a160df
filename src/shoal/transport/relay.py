"""The relay: one process of a node, beside its gateway workers, that has the carrier."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from shoal.gateway.channel import Channel, open_end
from shoal.gateway.responses import error as openai_error
from shoal.transport.carriers import PerNode, Surroundings, make
from shoal.transport.contract import Answer, Call, Carrier, CarrierError
from shoal.transport.directory import Directory
from shoal.transport.engine_link import EngineLink
from shoal.transport.front import Front
from shoal.transport.messages import (
    FromRelay,
    RelayCounts,
    RelayEngine,
    RelayNotice,
    RelaySettings,
    RelayState,
    RelayTable,
    ToRelay,
)
from shoal.transport.serving import Serving

log = logging.getLogger(__name__)

_LOOK = 0.1  # s between two looks at how the carrier is
_SAY_AGAIN = 1.0  # s after which the node is told the same again: a relay that hangs says nothing
_AGAIN_FIRST, _AGAIN_MOST = 0.5, 10.0  # s until a carrier that could not start tries again
_CLOSE = 2.0  # s that a carrier may take to close


class Relay:
    """Takes requests on unix sockets, one per engine, and gives them to the carrier; serves what the carrier brings.

    Args:
        channel: this end of the channel to the node process.
        udp: the node's socket for QUIC, if it has one.
    """

    def __init__(self, channel: socket.socket, udp: socket.socket | None = None) -> None:
        self._socket = channel
        self._udp = udp
        self._channel: Channel[ToRelay] | None = None
        self._directory = Directory()
        self._max_wait = 0.0
        self._link: EngineLink | None = None
        self._serving: Serving | None = None
        self._asked: Counter[str] = Counter()  # requests, by what became of them
        self._counts = RelayCounts()  # as they were told last
        self._carrier: Carrier | None = None
        self._down: str | None = ""  # why the carrier could not be started; "" before it has been tried
        self._fronts: dict[str, Front] = {}
        self._state: RelayState | None = None
        self._said = 0.0
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()

    async def run(self) -> int:
        """Carry until the channel closes; return the exit status."""
        decoder: msgspec.msgpack.Decoder[ToRelay] = msgspec.msgpack.Decoder(ToRelay)
        self._channel = await open_end(
            self._socket, Channel(decoder, self._heard, lambda _: self._over.set())
        )
        await self._over.wait()
        for front in self._fronts.values():
            front.close()
        for task in list(self._tasks):
            task.cancel()
        if self._carrier is not None:
            try:
                async with asyncio.timeout(_CLOSE):
                    await self._carrier.close()
            except (TimeoutError, CarrierError) as error:
                log.warning("the carrier did not close: %s", error)
        if self._link is not None:
            self._link.close()
        return 0

    def _heard(self, message: ToRelay) -> None:
        if isinstance(message, RelaySettings):
            self._max_wait = message.max_wait
            self._link = EngineLink(message.authorities, message.connect_timeout)
            self._serving = serving = Serving(self._directory, self._link)
            around = Surroundings(settings=message, directory=self._directory, handler=serving, udp=self._udp)
            self._carrier = make(around)
            self._spawn(self._start(self._carrier))
            self._spawn(self._watch())
            self._spawn(self._count())
        else:
            self._directory.replace(message.engines)
            assert self._link is not None
            self._link.tidy(message.engines)
            self._spawn(self._open(message))

    # -- the carrier

    async def _start(self, carrier: Carrier) -> None:
        again = _AGAIN_FIRST
        while True:
            try:
                await carrier.start()
            except CarrierError as error:
                self._down = str(error)
                self._look()
                await asyncio.sleep(again)
                again = min(2 * again, _AGAIN_MOST)
            else:
                self._down = None
                self._look()
                return

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(_LOOK)

    async def _count(self) -> None:
        """Tell the node now and then how many requests there were."""
        while True:
            await asyncio.sleep(_SAY_AGAIN)
            served = self._serving.served if self._serving is not None else 0
            counts = RelayCounts(dict(self._asked), served)
            if counts != self._counts and self._channel is not None:
                self._counts = counts
                self._channel.send(counts)

    def _look(self) -> None:
        """Tell the node how it is, if that has changed."""
        carrier = self._carrier
        assert carrier is not None
        # Before it has been tried there is nothing to tell: what a carrier says then is not the reason.
        trouble = (carrier.trouble or "") if self._down is None else self._down
        away = {}
        if isinstance(carrier, PerNode) and self._down is None:
            known = {node: carrier.trouble_with(node) for node in self._directory.nodes()}
            away = {node: why for node, why in known.items() if why is not None}
        listening = () if self._down == "" else tuple(sorted(self._fronts))
        state = RelayState(listening=listening, trouble=trouble, away=away)
        now = asyncio.get_running_loop().time()
        if self._channel is not None and (state != self._state or now - self._said > _SAY_AGAIN):
            self._state, self._said = state, now
            self._channel.send(state)

    async def _ask(self, call: Call) -> Answer:
        """Have a call carried; by tcp to the engine itself where the carrier cannot, unless it has waited too long."""
        assert self._carrier is not None
        try:
            if self._down is None:
                answer = await self._carrier.call(call)
                self._asked["carried"] += 1
                return answer
        except CarrierError as error:
            if error.unsent and call.deadline is not None and time.time() >= call.deadline:
                self._asked["late"] += 1
                return _late(call.model)
            log.info("%s goes by tcp: %s", call.id, error)
        try:
            engine = self._directory.get(call.engine)
            if engine is None or self._link is None:
                raise CarrierError(f"engine {call.engine} is not known", unsent=True)
            answer = await self._link.ask(engine, call)
        except CarrierError:
            self._asked["failed"] += 1
            raise
        self._asked["by_tcp"] += 1
        return answer

    # -- the sockets

    async def _open(self, table: RelayTable) -> None:
        async with self._opening:
            wanted = {e.id: e for e in table.engines if e.socket}
            for name in [n for n, f in self._fronts.items() if n not in wanted or wanted[n].socket != f.path]:
                self._fronts.pop(name).close()
            for name, engine in wanted.items():
                if name not in self._fronts:
                    await self._listen(engine)
            self._look()

    async def _listen(self, engine: RelayEngine) -> None:
        opener = self._opener(engine.id)
        front = Front(engine.id, engine.model, engine.socket, self._ask, opener, max_wait=self._max_wait)
        try:
            await front.listen()
        except OSError as error:
            self.tell(f"the relay cannot listen on {engine.socket}: {error}", "warning")
        else:
            self._fronts[engine.id] = front

    def _opener(
        self, name: str
    ) -> Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            engine = self._directory.get(name)
            if engine is None or self._link is None:
                raise CarrierError(f"engine {name} is not known", unsent=True)
            return await self._link.open(engine)

        return connect

    def tell(self, text: str, level: str = "info") -> None:
        """Have the node note a sentence."""
        if self._channel is not None:
            message: FromRelay = RelayNotice(text, level)
            self._channel.send(message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _late(model: str) -> Answer:
    """Return what a request gets that nobody began in time: what it would get that waited too long in a gateway."""
    text = f"No engine of model {model!r} had room for the request in time. Try again later."
    said = openai_error(503, text, code="queue_timeout")

    async def body() -> AsyncIterator[bytes]:
        yield said.body

    headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(said.body)),
        (b"retry-after", b"1"),
    )
    return Answer(status=said.status, headers=headers, chunks=body())
