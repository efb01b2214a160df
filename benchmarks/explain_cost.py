"""What following requests costs a gateway worker, in CPU time: `python benchmarks/explain_cost.py`.

A whole request through parse, dispatch and a scripted engine's answer, as in `keys_cost.py`: ordinary, named by its
client, and with `gateway.explain: all`. Best of many short rounds in turn, since a shared machine only ever adds time.
With ``--against DIRECTORY`` the ordinary request is timed there, too, in processes that take turns with those of this
tree: what the change itself costs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from shoal.gateway import counters
from shoal.gateway.context import Gateway
from shoal.gateway.counters import InFlight, SharedMetrics
from shoal.gateway.dispatch import dispatch
from shoal.gateway.exchange import Exchange
from shoal.gateway.heads import KnownHead
from shoal.gateway.messages import WorkerSettings
from shoal.gateway.request import parse_request
from shoal.gateway.response_head import parse_head
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable

BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"max_tokens":16}' % (
    b"Why do fish swim? " * 16
)
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 10.0.0.1:8000\r\nAccept: application/json\r\n"
    b"User-Agent: OpenAI/Python 2.8.0\r\nContent-Type: application/json\r\nContent-Length: %d" % len(BODY)
)
ANSWER = b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[]}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d" % len(ANSWER)


class _Client:
    write_paused = False

    def write(self, data: bytes) -> None: ...
    def persists(self, request: Any) -> bool:
        return True

    def finished(self, request: Any) -> None: ...
    def peer(self) -> str:
        return ""


class _Upstream:
    reused = True

    def send(self, exchange: Any, head: bytes, body: bytes) -> None: ...


def _once(gateway: Gateway, head: bytes, plain: bool) -> Callable[[], None]:
    known = KnownHead(RESPONSE[:-2], b"", (RESPONSE[:-2], b"\r\n\r\n"))
    digits = b"%d" % len(ANSWER)
    parsed = parse_head(RESPONSE, head_only=False, http10=False)
    client: Any = _Client()

    def once() -> None:
        request = parse_request(head, gateway.settings)
        request.body = BODY
        exchange = cast(Exchange, dispatch(gateway, client, request))
        exchange.start()
        if plain and request.plain:
            exchange.on_known(known, digits, ANSWER)
        else:
            exchange.on_head(parsed, ANSWER)
            exchange.on_end()

    return once


def _gateway(**settings: Any) -> Gateway:
    fd = counters.create(1)
    made = Gateway(
        WorkerSettings(index=0, workers=1, node="n", host="", port=1, control_socket="", **settings),
        InFlight(fd, 1),
        SharedMetrics(fd, 1),
        lambda _: None,
    )
    os.close(fd)
    engines = tuple(EngineTarget(id=f"n{i}/m", slot=i, host="127.0.0.1", port=1) for i in range(3))
    made.apply(
        RoutingTable(
            version=1, routes={"m": ModelRoute(model="m", policy="least_connections", engines=engines)}
        )
    )
    for pool in made.routes["m"].pools:
        pool.take = _Upstream  # type: ignore[method-assign, assignment]
    return made


def _micros(work: Callable[[], None], times: int = 500) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


async def _measure(only_ordinary: bool, rounds: int) -> dict[str, float]:
    named = HEAD.replace(b"\r\nUser-Agent", b"\r\nX-Request-Id: 0123456789abcdef\r\nUser-Agent")
    works = {"ordinary": _once(_gateway(), HEAD, plain=True)}
    if not only_ordinary:
        works["named by its client"] = _once(_gateway(), named, plain=True)
        works["gateway.explain: all"] = _once(_gateway(explain="all"), HEAD, plain=True)
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            best[name] = min(best[name], _micros(work))
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--ordinary", action="store_true", help="print the time of an ordinary request alone")
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    if given.ordinary:
        print(asyncio.run(_measure(True, given.rounds))["ordinary"])
        return
    for name, took in asyncio.run(_measure(False, given.rounds)).items():
        print(f"{name:24} {took:6.2f} us")
    if given.against is None:
        return
    trees = {"this tree": Path(__file__).parents[1], "the other": given.against}
    best = dict.fromkeys(trees, float("inf"))
    for _ in range(15):
        for name, tree in trees.items():
            env = os.environ | {"PYTHONPATH": str(tree / "src")}
            command = [sys.executable, __file__, "--ordinary", "--rounds", "20"]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            best[name] = min(best[name], float(done.stdout))
    for name, took in best.items():
        print(f"ordinary, {name:14} {took:6.2f} us")


if __name__ == "__main__":
    main()
