"""The same engines and workloads in virtual time, with the routing decided in this process.

Exact and repeatable: what bounds there are (an oracle), and how a policy compares with them, without a machine's noise.
Everything a network and a gateway cost is left out.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from benchmarks.routing.balance import Balance, balance_of
from benchmarks.routing.engines import Answered, Hardware
from benchmarks.routing.workload import Progress, Workload, gateway_of
from shoal.sim import chat, text
from shoal.sim.cache import BlockPool, block_hash
from shoal.sim.scheduler import Costs, Request, Scheduler, Step

_LOOK_EVERY = 0.02


class Clock:
    """Virtual time and what is to happen in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Let something happen at a time; what is due at the same time happens in the order of these calls."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action))

    def run(self, busy: Callable[[], bool]) -> None:
        """Let everything happen while `busy`."""
        while self._heap and busy():
            self.now, _, action = heapq.heappop(self._heap)
            action()


class VirtualEngine:
    """An engine: the scheduler of `shoal.sim`, driven by virtual time.

    Args:
        hardware: what it is like.
        clock: the time.
    """

    def __init__(self, hardware: Hardware, clock: Clock) -> None:
        self.hardware = hardware
        self.pool = BlockPool(hardware.kv_blocks, hardware.block)
        self.scheduler = Scheduler(
            self.pool,
            Costs(hardware.prefill_us, hardware.decode_ms, hardware.decode_us),
            max_num_seqs=hardware.max_seqs,
            max_batched_tokens=hardware.max_batched,
        )
        self.step_ends = 0.0
        self._clock = clock
        self._live: dict[Request, tuple[text.Continuation, int, Callable[[bool], None]]] = {}
        self._step: Step | None = None

    @property
    def open(self) -> int:
        """Requests that are not over."""
        return len(self._live)

    @property
    def requests(self) -> Sequence[Request]:
        """Requests that are not over."""
        return list(self._live)

    def submit(self, request: Request, answer: int, news: Callable[[bool], None]) -> None:
        """Start a request; `news` is called with False at its first token and with True at its last."""
        self.scheduler.add(request)
        self._live[request] = (text.Continuation(request.tokens), answer, news)
        if self._step is None:
            self._begin()

    def _begin(self) -> None:
        self._step = step = self.scheduler.schedule()
        if step is not None:
            self.step_ends = self._clock.now + step.duration
            self._clock.at(self.step_ends, self._end)

    def _end(self) -> None:
        step = self._step
        assert step is not None
        for request in self.scheduler.complete(step):
            continuation, answer, news = self._live[request]
            request.tokens.append(continuation.next(eos=False))
            count = len(request.tokens) - request.prompt_length
            if count == 1:
                news(False)
            if count >= answer:
                self.scheduler.finish(request)
                del self._live[request]
                news(True)
        self._begin()


class Router(Protocol):
    """Decides where requests go."""

    def choose(
        self, gateway: int, path: str, body: bytes, prompt: Sequence[int], now: float
    ) -> tuple[int, int]:
        """Return the index of the engine for a request that came to a gateway, and what to give `began`."""
        ...

    def began(self, gateway: int, engine: int, work: int) -> None:
        """Take note of the first token of a request."""
        ...

    def ended(self, gateway: int, engine: int) -> None:
        """Take note of the end of a request."""
        ...


def prompt_tokens(path: str, body: bytes) -> list[int]:
    """Return the tokens that an engine makes of a request."""
    fields: dict[str, Any] = json.loads(body)
    if path == "/v1/completions":
        return text.encode(fields["prompt"])
    return text.encode(chat.render(fields["messages"]))


def block_hashes(tokens: Sequence[int], size: int) -> list[int]:
    """Return the keys of the blocks of a prompt that an engine can find in its cache; the last token never counts."""
    parent = block_hash(0, ())
    found = []
    for index in range((len(tokens) - 1) // size):
        parent = block_hash(parent, tokens[index * size : (index + 1) * size])
        found.append(parent)
    return found


class Endless:
    """A single cache that never forgets: no routing with any memory finds more.

    Args:
        block: tokens of a block.
    """

    def __init__(self, block: int) -> None:
        self._block = block
        self._seen: set[int] = set()
        self._asked = self._found = 0

    def learn(self, tokens: Sequence[int]) -> None:
        """Remember a prompt with its answer: the next prompt of a session begins with both."""
        self._seen.update(block_hashes(tokens, self._block))

    def ask(self, prompt: Sequence[int]) -> None:
        """Look a prompt up, then remember it."""
        self._asked += len(prompt)
        hashes = block_hashes(prompt, self._block)
        for key in hashes:
            if key not in self._seen:
                break
            self._found += self._block
        self._seen.update(hashes)

    @property
    def hit_rate(self) -> float:
        """Share of the tokens asked for that were found."""
        return self._found / max(1, self._asked)


class Simulation:
    """One workload on engines in virtual time.

    Args:
        workload: the load.
        hardware: of each engine.
        engines: how many.
        gateways: how many; each request comes to one at random, as in the real runs.
    """

    def __init__(self, workload: Workload, hardware: Hardware, engines: int, gateways: int = 1) -> None:
        self.clock = Clock()
        self.engines = [VirtualEngine(hardware, self.clock) for _ in range(engines)]
        self.answered: list[Answered] = []
        self._endless = Endless(hardware.block)
        self.looks: list[list[int]] = []
        self._unsent = workload.requests
        self._workload = workload
        self._gateways = gateways

    def run(self, router: Router) -> None:
        """Run the workload to its end."""
        for session in self._workload.sessions:
            progress = Progress(session)
            self.clock.at(session.start + session.turns[0].wait, lambda p=progress: self._ask(p, router))  # type: ignore[misc]
        self._look()
        self.clock.run(lambda: len(self.answered) < self._workload.requests)

    def _look(self) -> None:
        self.looks.append([engine.open for engine in self.engines])
        if self._unsent:  # how requests end says nothing about how they are routed
            self.clock.at(self.clock.now + _LOOK_EVERY, self._look)

    def _ask(self, progress: Progress, router: Router) -> None:
        self._unsent -= 1
        session, turn = progress.session, progress.turn
        assert turn is not None
        number = progress.done
        path, body = progress.ask()
        tokens = prompt_tokens(path, body)
        self._endless.ask(tokens)
        gateway = gateway_of(session.name, number, self._gateways, self._workload.seed)
        index, work = router.choose(gateway, path, body, tokens, self.clock.now)
        start = self.clock.now
        request = Request(session.name, tokens, len(tokens), len(tokens) + turn.answer)
        times: list[float] = []

        def news(over: bool) -> None:
            if not over:
                times.append(self.clock.now - start)
                router.began(gateway, index, work)
                return
            self._endless.learn(request.tokens)
            answer = text.decode(request.tokens[request.prompt_length :])
            router.ended(gateway, index)
            self.answered.append(
                Answered(
                    session.name,
                    number,
                    start,
                    times[0],
                    self.clock.now - start,
                    request.prompt_length,
                    request.cached,
                )
            )
            progress.answered(answer)
            after = progress.turn
            if after is not None:
                self.clock.at(self.clock.now + after.wait, lambda: self._ask(progress, router))

        self.engines[index].submit(request, turn.answer, news)

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens that the engines had."""
        return sum(e.pool.hits for e in self.engines) / max(1, sum(e.pool.queries for e in self.engines))

    @property
    def balance(self) -> Balance:
        """How evenly the requests were spread while there were still some to come."""
        return balance_of(self.looks)

    @property
    def endless_hit_rate(self) -> float:
        """Share of the prompt tokens that a single cache without end would have had."""
        return self._endless.hit_rate
