"""``python -m shoal.sim``: starts a simulated engine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys

import uvloop

from shoal.sim.cache import BlockPool
from shoal.sim.control import Control
from shoal.sim.engine import Engine
from shoal.sim.family import Family
from shoal.sim.faults import FaultBoard
from shoal.sim.generate import Generator
from shoal.sim.group import Follower, GroupError, Leader
from shoal.sim.listener import CannotListenError, Listener, bind
from shoal.sim.loading import load, log
from shoal.sim.metrics import Metrics
from shoal.sim.openai import Service
from shoal.sim.options import Settings, parse
from shoal.sim.place import Place
from shoal.sim.ray_workers import RayWorkers
from shoal.sim.scheduler import Costs, Scheduler
from shoal.sim.server import App


def make_engine(settings: Settings, leader: Leader | None = None) -> Engine:
    """Build the engine that `settings` describe."""
    pool = BlockPool(settings.kv_blocks, settings.block_size, prefix_caching=settings.prefix_caching)
    costs = Costs(settings.prefill_us_per_token, settings.decode_ms, settings.decode_us_per_seq)
    scheduler = Scheduler(
        pool,
        costs,
        max_num_seqs=settings.max_num_seqs,
        max_batched_tokens=settings.max_num_batched_tokens,
        policy=settings.scheduling_policy,
    )
    metrics = Metrics(settings.served[0], settings.max_model_len, settings.kv_blocks, settings.block_size)
    return Engine(
        scheduler,
        metrics,
        salt=settings.salt,
        time_scale=settings.time_scale,
        stream_interval=settings.stream_interval,
        lockstep=leader,
    )


async def serve(settings: Settings, sock: socket.socket) -> None:
    """Load, listen and answer until a signal says stop."""
    spread = RayWorkers(settings.ray) if settings.ray is not None else None
    place = spread.place if spread is not None else settings.place
    leader = Leader(place) if place is not None else None
    engine = make_engine(settings, leader)
    board = FaultBoard()
    listener = Listener(
        sock,
        settings.shutdown_timeout,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
        ssl_ca_certs=settings.ssl_ca_certs,
        ssl_cert_reqs=settings.ssl_cert_reqs,
    )
    family = Family.start(settings.children) if settings.children > 0 else None
    control = Control(engine, board, listener, family)
    service = Service(settings.served, settings.max_model_len, settings.auto_tools)
    app = App(
        service=service,
        model_path=settings.model,
        engine=engine,
        generator=Generator(engine, board, settings.max_num_queued_reqs),
        board=board,
        control=control,
        family=family,
        leader=leader,
        api_keys=settings.api_keys,
        embedding_size=settings.embedding_size,
        cached_tokens=settings.cached_tokens,
        force_usage=settings.force_usage,
    )
    loop = asyncio.get_running_loop()
    calming: set[asyncio.Task[None]] = set()

    def calm_down() -> None:
        task = loop.create_task(control.clear())
        calming.add(task)
        task.add_done_callback(calming.discard)

    # The way out of a fault that closed the port to everybody.
    loop.add_signal_handler(signal.SIGUSR1, calm_down)
    _end_on_signal()  # until the listener takes them over
    if family is not None:
        family.watch(control.core_died)
    try:
        for fault in settings.faults:
            await control.order(fault)
        if leader is not None:
            await leader.gather(spread.start if spread is not None else None)
        await load(settings)
        if leader is not None:
            await leader.loaded()
            leader.watch(control.core_died)
        host, port = listener.address
        scheme = "https" if settings.ssl_certfile else "http"
        log("APIServer", f"Starting vLLM server on {scheme}://{host}:{port}")
        await listener.run_app(app)
    finally:
        if family is not None:
            family.end()


async def follow(settings: Settings, place: Place) -> None:
    """Be one of the processes that serve no HTTP: load, and compute what the leader says, until a signal says stop."""
    _end_on_signal()
    follower = Follower(place)
    family = Family.start(settings.children, place.workers[0]) if settings.children > 0 else None
    try:
        dead = asyncio.Event()
        if family is not None:
            family.watch(dead.set)
        work = asyncio.ensure_future(_join_and_work(follower, settings))
        end = asyncio.ensure_future(dead.wait())
        await asyncio.wait((work, end), return_when=asyncio.FIRST_COMPLETED)
        if dead.is_set():
            await follower.give_up()
        else:
            await work
    finally:
        if family is not None:
            family.end()


async def _join_and_work(follower: Follower, settings: Settings) -> None:
    await follower.join()
    await load(settings)
    await follower.work()


def _end_on_signal() -> None:
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    settings = parse(sys.argv[1:] if arguments is None else arguments)
    place = settings.place
    try:
        with (
            contextlib.ExitStack() as stack,
            contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            if place is not None and place.rank > 0:
                runner.run(follow(settings, place))
            else:
                runner.run(serve(settings, stack.enter_context(bind(settings.host, settings.port))))
    except (CannotListenError, GroupError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
