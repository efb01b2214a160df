"""What API keys cost a gateway worker for each request, in CPU time: `python benchmarks/keys_cost.py`.

Each step is timed alone, then a whole request through parse, dispatch and a scripted engine's answer, with keys and
without. Best of several rounds, since a shared machine only ever adds time. Last, two processes admit requests under
one key at a steady rate and as fast as they can: what their limit misses, since they share it without a lock.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, cast

from shoal.gateway import counters
from shoal.gateway.context import Gateway
from shoal.gateway.counters import InFlight, SharedMetrics
from shoal.gateway.dispatch import dispatch
from shoal.gateway.exchange import Exchange
from shoal.gateway.key_cells import KeyCells, size
from shoal.gateway.keys import Key, Keyring, KeyTable, digest_of, take_credentials
from shoal.gateway.limits import MINUTE, Limiter
from shoal.gateway.messages import WorkerSettings
from shoal.gateway.request import parse_request
from shoal.gateway.response_head import parse_head
from shoal.gateway.usage import BodyWatch
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable

SECRET = b"sk-shoal-" + b"x" * 43
BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"max_tokens":16}' % (
    b"Why do fish swim? " * 16
)
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 10.0.0.1:8000\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: OpenAI/Python 2.8.0\r\n"
    b"X-Stainless-Lang: python\r\nX-Stainless-OS: Linux\r\nX-Stainless-Runtime: CPython\r\n"
    b"Authorization: Bearer %b\r\nContent-Type: application/json\r\nContent-Length: %d" % (SECRET, len(BODY))
)
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%b"},"finish_reason":"stop"}],"usage":{"prompt_tokens":80,"total_tokens":'
    b'96,"completion_tokens":16,"prompt_tokens_details":null},"prompt_logprobs":null}' % (b"To be safe. " * 8)
)
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d" % len(ANSWER)


def micros(work: Callable[[], object], times: int = 20_000, rounds: int = 15) -> float:
    """Return the CPU time of one call in microseconds, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - began)
    return best / times * 1e6


class Client:
    """A client's connection that takes everything."""

    write_paused = False

    def write(self, data: bytes) -> None:
        """Take bytes."""

    def persists(self, _: object) -> bool:
        """Stay open."""
        return True

    def finished(self, _: object) -> None:
        """Take note."""


def requests(keys: KeyTable | None) -> Callable[[], None]:
    """Return what carries one request through a gateway."""
    settings = WorkerSettings(index=0, workers=8, node="n", host="", port=1, control_socket="", keys=keys)
    fd = counters.create(8, size(8))
    gateway = Gateway(
        settings, InFlight(fd, 8), SharedMetrics(fd, 8), lambda _: None, key_cells=KeyCells(fd, 8)
    )
    os.close(fd)
    engine = EngineTarget(id="n/m", slot=0, host="127.0.0.1", port=1)
    routes = {"m": ModelRoute(model="m", policy="round_robin", engines=(engine,))}
    gateway.apply(RoutingTable(version=1, routes=routes))
    client = cast(Any, Client())
    pool = gateway.routes["m"].pools[0]
    head = parse_head(RESPONSE, False, False)

    def one() -> None:
        request = parse_request(HEAD, settings)
        request.body = BODY
        exchange = dispatch(gateway, client, request)
        assert isinstance(exchange, Exchange)
        exchange._pool = pool
        pool.counts.begin()
        exchange.on_head(head, ANSWER)
        exchange.on_end()

    return one


def missed(requests: int, rate: float) -> float:
    """Return the share of admitted requests that two workers' shared bucket has not seen.

    Args:
        requests: admitted by each of them.
        rate: a second, by each of them; infinite for no pause.
    """
    began = 10**15  # a clock that stands still: nothing comes in meanwhile
    fd = counters.create(2, size(2))
    key = Key(name="k", digest=b"", slot=1, requests_per_minute=10**9)
    start = time.perf_counter() + 0.3
    children = []
    for worker in range(2):
        child = os.fork()
        if not child:
            limiter = Limiter(KeyCells(fd, 2), worker, lambda: began)
            for i in range(requests):
                while time.perf_counter() < start + i / rate:
                    pass
                limiter.enter(key)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    seen = (KeyCells(fd, 2).requests_full[1] - began) // (MINUTE // 10**9)
    os.close(fd)
    return 1 - seen / (2 * requests)


async def main() -> None:
    """Measure and print."""
    key = Key(name="anna", digest=digest_of(SECRET), slot=5)
    limits = {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "max_concurrent": 10**6}
    limited = Key(name="bert", digest=digest_of(SECRET), slot=6, **limits)
    ring, (_, lines) = Keyring(KeyTable(keys=(key,))), take_credentials(HEAD)
    fd = counters.create(8, size(8))
    limiter = Limiter(KeyCells(fd, 8), 0)

    def admit(who: Key) -> Callable[[], None]:
        def work() -> None:
            limiter.enter(who)
            limiter.leave(who)
            limiter.charge(who, 1)

        return work

    print(f"take the key out of the head   {micros(lambda: take_credentials(HEAD)):6.2f} us")
    print(f"find it                        {micros(lambda: ring.find(lines)):6.2f} us")
    print(f"admit, charge: no limits       {micros(admit(key)):6.2f} us")
    print(f"admit, charge: three limits    {micros(admit(limited)):6.2f} us")
    print(f"header lines of two limits     {micros(lambda: limiter.header_lines(limited)):6.2f} us")
    print(
        f"find the usage in {len(ANSWER):4} bytes     {micros(lambda: BodyWatch(chunked=False).see(ANSWER)):6.2f} us"
    )
    for name, keys in (("none", None), ("no limits", key), ("three limits", limited)):
        work = requests(None if keys is None else KeyTable(keys=(keys,)))
        print(f"whole request, keys: {name:12} {micros(work, 5000):6.2f} us")


def race() -> None:
    """Measure what two workers miss, and print it."""
    for name, rate, requests in (
        ("5,000 a second each", 5000.0, 20_000),
        ("as fast as can be", float("inf"), 200_000),
    ):
        shares = sorted(missed(requests, rate) for _ in range(5))
        print(f"missed by two workers, {name:20} {shares[0]:.3%} to {shares[-1]:.3%}")


if __name__ == "__main__":
    race()
    asyncio.run(main())
