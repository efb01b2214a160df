"""A node's engines without the rest of the node, with the simulated engine as a real process."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from shoal.config.schema import Engines as EngineSettings
from shoal.engine.machine import Machine
from shoal.engine.spec import EngineSpec
from shoal.node.certificates import Certificates
from shoal.node.engines import Engines
from shoal.node.events import Events
from shoal.node.reconcile import MarkReady, Start
from support.ports import free_ports

SPEC = EngineSpec(id="m-0", model="m", kind="sim", model_path="m", served_name="m", gpus=())


class Node:
    """A node with one engine and no rules: the test is the rules."""

    def __init__(self, state_dir: Path, spec: EngineSpec = SPEC, stall_timeout: float = 10.0) -> None:
        self.in_flight = 0
        port = free_ports(1)[0]
        self.events = Events()
        self.engines = Engines(
            node="n:1",
            specs={spec.id: spec},
            settings=EngineSettings(ports=(port, port + 50), probe_interval=0.1),
            state_dir=state_dir,
            machine=Machine(cores=1, memory=1 << 30),
            advertised="127.0.0.1",
            drain_timeout=5.0,
            settle=0.1,
            stall_timeout=stall_timeout,
            certificates=Certificates(state_dir, None),
            in_flight=lambda _: self.in_flight,
            events=self.events,
            on_change=lambda: None,
        )

    @property
    def engine(self):
        return self.engines.actual()["m-0"]

    @property
    def report(self):
        return self.engines.reports()[0]

    def pid(self) -> int:
        found = [
            p for p in psutil.process_iter(["cmdline"]) if str(self.report.port) in (p.info["cmdline"] or [])
        ]
        return int(found[0].pid)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.01)

    async def ready(self) -> None:
        self.engines.apply(Start(engine="m-0", reason="engine m-0 starts"))
        await self.until(lambda: self.engine.ready)
        self.engines.apply(MarkReady(engine="m-0", reason="engine m-0 is ready after 1 s"))


def run(test: Callable[[Node], Awaitable[None]], node: Node) -> None:
    async def whole() -> None:
        try:
            await test(node)
        finally:
            await node.engines.kill_all()

    asyncio.run(whole())
