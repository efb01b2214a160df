"""A node that only serves a queue, as a process of its own: what it executes it writes into a file, line by line.

Run as ``python -m support.queued_node PROTOCOL SETTINGS SLOTS LOG`` (settings and slots as JSON).
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from shoal.transport.contract import Answer, Call
from shoal.transport.queued.broker import QueueSettings
from shoal.transport.queued.carrier import QueuedCarrier


def carrier(  # noqa: PLR0917
    protocol: str,
    settings: QueueSettings,
    slots: dict[str, int],
    handler: Any,
    models: tuple[str, ...] = ("m",),
    notice: Any = print,
) -> QueuedCarrier:
    """Return a carrier that is not started."""
    if protocol == "rabbitmq":
        from shoal.transport.rabbitmq import RabbitBroker as Broker  # noqa: PLC0415
    else:
        from shoal.transport.kafka import KafkaBroker as Broker  # type: ignore[assignment]  # noqa: PLC0415
    return QueuedCarrier(
        settings, Broker, handler=handler, slots=lambda: slots, models=lambda: models, notice=notice
    )


class Engine:
    """Answers what a call's body asks for: ``{"pieces": 3, "every": 0.1, "first": 0.2}`` (times in s).

    Attributes:
        executed: ids of the calls that began, in order.
        ended: ids of those that were read to the end.
        stopped: ids of those that nobody read on.
    """

    def __init__(self, node: str, log: Path | None = None) -> None:
        self.node = node
        self.executed: list[str] = []
        self.ended: list[str] = []
        self.stopped: list[str] = []
        self._log = log

    async def __call__(self, call: Call) -> Answer:
        """Ask it."""
        self._write(self.executed, call.id)
        wish = json.loads(call.body)
        if wish.get("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            await asyncio.sleep(wish.get("first", 0))
        except asyncio.CancelledError:
            self._write(self.stopped, call.id)
            raise
        headers = ((b"content-type", b"text/plain"), (b"x-id", call.id.encode()))
        return Answer(
            status=200, headers=headers, chunks=self._pieces(call, wish), served_by=f"{self.node}/engine"
        )

    async def _pieces(self, call: Call, wish: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            for number in range(wish.get("pieces", 1)):
                if number:
                    await asyncio.sleep(wish.get("every", 0))
                yield f"{call.id}:{number} ".encode()
        except (asyncio.CancelledError, GeneratorExit):
            self._write(self.stopped, call.id)
            raise
        self._write(self.ended, call.id)

    def _write(self, what: list[str], call: str) -> None:
        what.append(call)
        if self._log is not None:
            word = {id(self.executed): "executed", id(self.ended): "ended"}.get(id(what), "stopped")
            with self._log.open("a") as file:
                file.write(f"{word} {call}\n")


def expected(call: str, pieces: int) -> bytes:
    """Return the body of the answer."""
    return b"".join(f"{call}:{number} ".encode() for number in range(pieces))


async def main() -> None:
    """Serve until SIGTERM."""
    protocol, settings, slots, log = sys.argv[1:]
    decoded = msgspec.json.decode(settings, type=QueueSettings)
    serving = carrier(protocol, decoded, json.loads(slots), Engine(decoded.node, Path(log)))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serving.start()
    print("ready", flush=True)
    await stop.wait()
    await serving.close()


if __name__ == "__main__":
    asyncio.run(main())
