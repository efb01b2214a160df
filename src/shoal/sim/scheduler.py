"""Continuous batching as vLLM's V1 scheduler does it: which request gets how many tokens in which step.

A pure model. It owns no clock: `schedule` says what the next step does and how long that takes, whoever drives it
waits that long (or not) and calls `complete`. Prefill is chunked, running requests come first, a request that finds
no KV block makes room by preempting the least important running one, which is computed again later.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.sim.cache import BlockPool, block_hash


@dataclass(frozen=True)
class Costs:
    """What a step costs, before `slow` factors and time scales.

    Attributes:
        prefill_us_per_token: microseconds for each prompt token computed.
        decode_ms: milliseconds every step takes.
        decode_us_per_seq: microseconds for each request that decodes in it.
    """

    prefill_us_per_token: float = 20.0
    decode_ms: float = 2.0
    decode_us_per_seq: float = 20.0

    def step(self, prefill_tokens: int, decoding: int) -> float:
        """Return the seconds a step with this work takes."""
        return (
            self.decode_ms * 1e-3
            + self.prefill_us_per_token * 1e-6 * prefill_tokens
            + self.decode_us_per_seq * 1e-6 * decoding
        )


@dataclass(eq=False, slots=True)
class Request:
    """One sequence on its way through the scheduler.

    Attributes:
        id: name of the request, for people.
        tokens: prompt and what was generated so far; whoever samples appends here.
        prompt_length: how many of `tokens` are the prompt.
        max_length: tokens it may come to at most, prompt included.
        priority: lower goes first, under the policy ``priority`` only.
        arrival: orders requests of equal priority; the scheduler sets it.
        computed: tokens whose KV is in the cache.
        cached: prompt tokens that were found in the prefix cache when it was first scheduled.
        blocks: KV blocks held, in the order of the text.
        preemptions: how often it lost its place.
        state: ``new``, ``waiting``, ``running`` or ``finished``.
    """

    id: str
    tokens: list[int]
    prompt_length: int
    max_length: int
    priority: int = 0
    cache_salt: str | None = None
    arrival: int = 0
    computed: int = 0
    cached: int = 0
    blocks: list[int] = field(default_factory=list)
    preemptions: int = 0
    state: str = "new"
    hashes: list[int] = field(default_factory=list)
    published: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Smaller is more important."""
        return (self.priority, self.arrival)


@dataclass(frozen=True, slots=True)
class Step:
    """Work of one engine step.

    Attributes:
        work: requests and how many of their tokens are computed.
        duration: seconds it takes.
        started: requests that left the queue for it.
        prefill_tokens: prompt tokens among the work.
    """

    work: list[tuple[Request, int]]
    duration: float
    started: list[Request]
    prefill_tokens: int


class Scheduler:
    """Decides, step by step, what an engine works on.

    Args:
        pool: the KV cache.
        costs: what work takes.
        max_num_seqs: requests that may run at the same time, at least 1.
        max_batched_tokens: tokens computed in one step at most, at least 1.
        policy: ``fcfs``, or ``priority`` (lower first, then by arrival).
    """

    def __init__(
        self,
        pool: BlockPool,
        costs: Costs,
        *,
        max_num_seqs: int = 256,
        max_batched_tokens: int = 8192,
        policy: str = "fcfs",
    ) -> None:
        if max_num_seqs < 1 or max_batched_tokens < 1:
            raise ValueError("max_num_seqs and max_batched_tokens must be at least 1")
        if policy not in ("fcfs", "priority"):
            raise ValueError(f"unknown scheduling policy {policy!r}: fcfs or priority")
        self.pool = pool
        self.costs = costs
        self.running: list[Request] = []
        self.preemptions = 0
        self._max_num_seqs = max_num_seqs
        self._max_batched_tokens = max_batched_tokens
        self._by_priority = policy == "priority"
        self._queue: list[tuple[tuple[int, int], Request]] = []
        self._waiting = 0
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ValueError: it can come to more tokens than the KV cache holds, and would then wait for ever.
        """
        if self.pool.blocks_for(request.max_length) > self.pool.capacity:
            raise ValueError(
                f"{request.max_length} tokens do not fit a KV cache of {self.pool.capacity} blocks"
            )
        self._arrivals += 1
        request.arrival = self._arrivals
        self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        request.state = "waiting"
        self._waiting += 1
        # First come, first served is the same queue with all priorities equal. A preempted request keeps its
        # arrival, so it goes back to the front.
        heapq.heappush(self._queue, (request.rank if self._by_priority else (0, request.arrival), request))

    def _peek(self) -> Request | None:
        while self._queue and self._queue[0][1].state != "waiting":
            heapq.heappop(self._queue)  # finished while it waited
        return self._queue[0][1] if self._queue else None

    def finish(self, request: Request) -> bool:
        """Take a request out, wherever it is, and free its blocks. False if it was not in."""
        state, request.state = request.state, "finished"
        if state == "waiting":
            self._waiting -= 1
        elif state == "running":
            self.running.remove(request)
        else:
            return False
        self.pool.release(request.blocks)
        request.blocks = []
        return True

    def schedule(self) -> Step | None:
        """Plan the next step and take the KV blocks it needs; None when there is nothing to do."""
        budget = self._max_batched_tokens
        work: list[tuple[Request, int]] = []
        preempted = False
        for request in list(self.running):
            if budget == 0:
                break
            if request.state != "running":
                continue  # made room for one before it
            count = min(len(request.tokens) - request.computed, budget)
            fits, made_room = self._make_room(request, count)
            preempted |= made_room
            if fits:
                work.append((request, count))
                budget -= count
        if preempted:
            work = [item for item in work if item[0].state == "running"]
        for request, count in work:
            self._publish(request, count)
        started = [] if preempted else self._admit(work, budget)
        if not work:
            return None
        prefill = decoding = 0
        for request, count in work:
            if count > 1 or request.computed < request.prompt_length:
                prefill += count
            else:
                decoding += 1
        return Step(work, self.costs.step(prefill, decoding), started, prefill)

    def _make_room(self, request: Request, count: int) -> tuple[bool, bool]:
        """Get the blocks for `count` more tokens of a running request: (it may go on, others were preempted)."""
        made_room = False
        while True:
            missing = self.pool.blocks_for(request.computed + count) - len(request.blocks)
            taken = self.pool.acquire((), missing) if missing > 0 else []
            if taken is not None:
                request.blocks += taken
                return True, made_room
            victim = max(self.running, key=lambda r: r.rank) if self._by_priority else self.running[-1]
            self._preempt(victim)
            made_room = True
            if victim is request:
                return False, True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.pool.release(request.blocks)
        request.blocks = []
        request.computed = 0
        request.published = 0
        request.preemptions += 1
        self.preemptions += 1
        self._enqueue(request)

    def _admit(self, work: list[tuple[Request, int]], budget: int) -> list[Request]:
        started: list[Request] = []
        while budget > 0 and len(self.running) < self._max_num_seqs:
            request = self._peek()
            if request is None:
                break
            shared, hit = self._find_prefix(request)
            count = min(len(request.tokens) - hit, budget)
            blocks = self.pool.acquire(shared, self.pool.blocks_for(hit + count) - len(shared))
            if blocks is None:
                break  # nobody overtakes the first in the queue
            heapq.heappop(self._queue)
            self._waiting -= 1
            request.state = "running"
            request.blocks = blocks
            request.computed = hit
            request.published = len(shared)
            if not request.preemptions:
                request.cached = hit
                self.pool.count_lookup(len(request.tokens), hit)
            self.running.append(request)
            self._publish(request, count)
            started.append(request)
            work.append((request, count))
            budget -= count
        return started

    def _find_prefix(self, request: Request) -> tuple[Sequence[int], int]:
        """Return the cached blocks a request begins with and their tokens; at least one token is left to compute."""
        size = self.pool.block_size
        self._hash_full_blocks(request, (len(request.tokens) - 1) // size)
        shared = self.pool.match(request.hashes[: (len(request.tokens) - 1) // size])
        return shared, len(shared) * size

    def _hash_full_blocks(self, request: Request, blocks: int) -> None:
        size, hashes = self.pool.block_size, request.hashes
        parent = (
            hashes[-1] if hashes else block_hash(0, request.cache_salt.encode() if request.cache_salt else ())
        )
        for index in range(len(hashes), blocks):
            parent = block_hash(parent, request.tokens[index * size : (index + 1) * size])
            hashes.append(parent)

    def _publish(self, request: Request, count: int) -> None:
        """Let others find the blocks that are full once `count` more tokens are computed.

        At once, as vLLM's `KVCacheManager.allocate_slots` does: whoever comes later in the same step computes each
        layer after them.
        """
        full = (request.computed + count) // self.pool.block_size
        if full > request.published:
            self._hash_full_blocks(request, full)
            for index in range(request.published, full):
                self.pool.publish(request.blocks[index], request.hashes[index])
            request.published = full

    def complete(self, step: Step) -> list[Request]:
        """Account for a step that is over; return the requests that have a token to sample now."""
        ready: list[Request] = []
        for request, count in step.work:
            if request.state != "running":
                continue  # aborted while the step ran
            request.computed += count
            if request.computed == len(request.tokens):
                ready.append(request)
        return ready
