"""Tells where a node of this machine can be asked: ``python -m shoal.deploy.probe FILE NODE``."""

from __future__ import annotations

import sys
from pathlib import Path

from shoal.config import ConfigError, load
from shoal.node.lock import running_process
from shoal.node.sockets import control_socket_of


def main(file: str, node: str) -> int:
    """Print the path of the node's unix socket; return 0, or 1 with the reason on standard error."""
    try:
        state_dir = load(Path(file)).config.state_dir_of(node)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    socket = control_socket_of(state_dir) if running_process(state_dir) is not None else None
    if socket is None:
        print("it does not run", file=sys.stderr)
        return 1
    print(socket)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
