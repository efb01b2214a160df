"""``python -m shoal.transport --channel-fd N [--udp-fd N]``: a relay, as the node process starts it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import signal
import socket
import sys

import uvloop

from shoal.transport.relay import Relay


async def _run(channel: socket.socket, udp: socket.socket | None) -> int:
    # A terminal's Ctrl-C goes to every process of the node: the node process says what happens then.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    return await Relay(channel, udp).run()


def main() -> int:
    """Run a relay in this process; return its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--udp-fd", type=int)
    found = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    udp = None if found.udp_fd is None else socket.socket(fileno=found.udp_fd)
    gc.collect()
    gc.freeze()  # what exists now stays: spare the collector going through it again and again
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(socket.socket(fileno=found.channel_fd), udp))


if __name__ == "__main__":
    sys.exit(main())
