"""Shoal's policies as routers of a simulation: what each gateway sees is what a node would know, and as late."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.routing.engines import FASTER
from benchmarks.routing.virtual import VirtualEngine
from shoal.gateway.prompts import prompt_fields, prompt_of
from shoal.routing import registry
from shoal.routing.prefix_affinity import PrefixAffinity
from shoal.routing.prefix_table import PrefixTable, column
from shoal.routing.prompt import Prompt
from shoal.routing.table import EngineTarget

SHARE = 0.05 / FASTER  # seconds between two messages of a node to the others
PROBE = 1.0  # seconds between two looks at what an engine says of itself
_TABLE = 8 << 20  # bytes


class _Ask:
    """A request as a policy sees it."""

    def __init__(self, body: bytes) -> None:
        self.work = 0
        self._fields = prompt_fields(body)

    def session(self) -> bytes:
        return bytes(self._fields.user)

    def prompt(self) -> Prompt:
        return prompt_of(self._fields)

    def header(self, name: bytes) -> bytes:
        return b""


class _Gateway:
    """What one gateway knows."""

    def __init__(
        self, policy: str, targets: Sequence[EngineTarget], seed: int, clock: Callable[[], int]
    ) -> None:
        count = len(targets)
        self.open = [0] * count
        self.others = [0] * count
        self.own_work = [0] * count
        self.others_work = [0] * count
        self.news: list[tuple[int, list[int]]] = []
        self.outside = array("q", [0] * count)
        self.waiting = array("q", [0] * count)
        self.kv_permille = array("q", [0] * count)
        self.table = PrefixTable(memoryview(bytearray(_TABLE)).cast("Q"))
        shared = registry.Shared(self.table, self, self._learned)
        self.policy: Any = registry.create(policy, seed, shared)
        if isinstance(self.policy, PrefixAffinity):
            self.policy = PrefixAffinity(seed, self.table, self, self._learned, clock)

    def work(self, slot: int) -> _Work:
        """See `Loads`."""
        return _Work(self, slot)

    def _learned(self, slot: int, hashes: Sequence[int]) -> None:
        self.news.append((slot, list(hashes)))


class _Work(Sequence[int]):
    """The bytes under way to an engine: of this gateway, and of the others as last told."""

    def __init__(self, gateway: _Gateway, slot: int) -> None:
        self._gateway = gateway
        self._slot = slot

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return (self._gateway.own_work[self._slot], self._gateway.others_work[self._slot])[index]


class InProcess:
    """Gateways of Shoal with one policy, which tell each other what they do.

    Args:
        policy: name.
        engines: where requests go; only what an engine's metrics say is looked at.
        gateways: how many.
    """

    def __init__(self, policy: str, engines: Sequence[VirtualEngine], gateways: int) -> None:
        self._engines = engines
        self._targets = tuple(
            EngineTarget(id=f"external/bench-{i}", slot=i, host="127.0.0.1", port=1 + i)
            for i in range(len(engines))
        )
        self._now = 0.0
        self._gateways = [
            _Gateway(policy, self._targets, seed, lambda: 1 + int(self._now * 1000))
            for seed in range(gateways)
        ]
        self._share_at = self._probe_at = 0.0

    def choose(
        self, gateway: int, path: str, body: bytes, prompt: Sequence[int], now: float
    ) -> tuple[int, int]:
        """See `Router`; the token is the work until the first byte of the answer."""
        self._now = now
        if now >= self._share_at:
            self._share()
            self._share_at = now + SHARE
        if now >= self._probe_at:
            self._probe()
            self._probe_at = now + PROBE
        one = self._gateways[gateway]
        ask = _Ask(body)
        loads = [own + other for own, other in zip(one.open, one.others, strict=True)]
        index = one.policy.pick(self._targets, loads, ask)
        one.open[index] += 1
        one.own_work[index] += ask.work
        return index, ask.work

    def began(self, gateway: int, engine: int, work: int) -> None:
        """See `Router`."""
        self._gateways[gateway].own_work[engine] -= work

    def ended(self, gateway: int, engine: int) -> None:
        """See `Router`."""
        self._gateways[gateway].open[engine] -= 1

    def _share(self) -> None:
        if len(self._gateways) == 1:
            self._gateways[0].news.clear()
            return
        for one in self._gateways:
            rest = [other for other in self._gateways if other is not one]
            one.others = [sum(numbers) for numbers in zip(*(other.open for other in rest), strict=True)]
            one.others_work = [
                sum(numbers) for numbers in zip(*(other.own_work for other in rest), strict=True)
            ]
            for other in rest:
                for slot, hashes in other.news:
                    one.table.put(hashes, column(slot), 1 + int(self._now * 1000))
        for one in self._gateways:
            one.news.clear()

    def _probe(self) -> None:
        for slot, engine in enumerate(self._engines):
            for one in self._gateways:
                one.waiting[slot] = engine.scheduler.waiting
                one.kv_permille[slot] = round(1000 * engine.pool.usage)
