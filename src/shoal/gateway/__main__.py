"""Entry point of a worker process: ``python -m shoal.gateway --channel-fd N --counters-fd M --listen-fd L [...]``."""

from __future__ import annotations

import argparse
import sys

from shoal.gateway.worker import main

parser = argparse.ArgumentParser(
    prog="shoal.gateway", description="A gateway worker; the node process starts it."
)
parser.add_argument(
    "--channel-fd", type=int, required=True, help="descriptor of the channel to the node process"
)
parser.add_argument("--counters-fd", type=int, required=True, help="descriptor of the shared counters")
parser.add_argument("--listen-fd", type=int, required=True, help="descriptor of the socket to accept on")
parser.add_argument("--affinity-fd", type=int, help="descriptor of what workers share of engines' caches")
arguments = parser.parse_args()
sys.exit(main(arguments.channel_fd, arguments.counters_fd, arguments.listen_fd, arguments.affinity_fd))
