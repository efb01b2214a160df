"""The part of a check that nodes do together: each one answers the others while it asks them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from shoal.config import Config, Node
from shoal.engine.ports import NoFreePortError, reserve
from shoal.node.check.asking import Answers, Asker
from shoal.node.check.compare import clocks, facts_agree, models_agree, others_links, reached
from shoal.node.check.facts import Facts, ModelFiles
from shoal.node.check.findings import Finding, failure
from shoal.node.check.responder import Link, Responder, Results
from shoal.node.check.wire import key_of
from shoal.node.identity import listen_address

_POLL = 0.25  # s
_LINGER = (
    1.0  # s that a node goes on answering when all have finished: they may just be asking for its results
)

Models = Callable[[], Awaitable[tuple[ModelFiles, ...]]]


async def together(
    config: Config,
    node: Node,
    facts: Facts,
    models: Models,
    *,
    wait: float,
    on_found: Callable[[Sequence[Finding]], None],
) -> None:
    """Check with the other nodes.

    Args:
        config: the configuration.
        node: this node.
        facts: of it.
        models: returns the files of its models, when they have been read.
        wait: seconds to wait for nodes that do not answer yet.
        on_found: called with what is found as it is.
    """
    others = [n for n in config.nodes if n.name != node.name]
    address = listen_address(node)
    engine_port = _engine_port(config, node, address)
    cluster = config.cluster
    responder = Responder(
        cluster.name, cluster.secret, msgspec.structs.replace(facts, engine_port=engine_port), models
    )
    try:
        await responder.start(address, node.port, engine_port)
    except OSError as error:
        on_found(
            [failure("network", f"cannot listen on {address}:{node.port}: {error.strerror}", "free the port")]
        )
        return
    asker = Asker(key_of(cluster.name, cluster.secret), node.name)
    try:

        async def ask(other: Node) -> Answers:
            answers = await asker.ask(other.name, other.host, other.port, wait)
            found = [*reached(answers), *clocks(answers)]
            if answers.facts is not None:
                found += facts_agree(facts, answers.facts)
                found += models_agree(other.name, await models(), answers.models)
            on_found(found)
            return answers

        answers = await asyncio.gather(*map(ask, others))
        responder.results = Results(done=True, links=tuple(a.link for a in answers))
        there = [o for o, a in zip(others, answers, strict=True) if a.facts is not None]
        on_found(list(others_links(await _what_others_found(asker, there, wait), node.name)))
        await asyncio.sleep(_LINGER if there else 0)
    finally:
        responder.stop()


async def _what_others_found(asker: Asker, others: Sequence[Node], wait: float) -> list[Link]:
    """Return the ways between other nodes as these have found them; wait until they have, or have gone."""
    latest: dict[str, Results] = {}
    gone: set[str] = set()
    end = time.monotonic() + wait
    while time.monotonic() < end:
        open_ = [o for o in others if o.name not in gone and not latest.get(o.name, Results()).done]
        if not open_:
            break
        for other, results in zip(
            open_, await asyncio.gather(*(asker.results(o.host, o.port) for o in open_)), strict=True
        ):
            if results is None:
                gone.add(other.name)
            else:
                latest[other.name] = results
        await asyncio.sleep(_POLL)
    return [link for results in latest.values() for link in results.links]


def _engine_port(config: Config, node: Node, address: str) -> int:
    try:
        reservation = reserve(address, *config.engines.ports, node.name)
    except NoFreePortError:
        return 0
    reservation.release()
    return reservation.port
