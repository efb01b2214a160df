"""`shoal serve --local`: one child process per node of this machine, their output in one stream."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


def serve_local(config: Path, names: list[str], log_format: str | None) -> int:
    """Run the nodes `names` of `config` as children until all have ended; return the exit status.

    A first SIGINT or SIGTERM stops them gracefully, a second one at once; SIGHUP reloads them, SIGUSR2 ends them
    without their engines. When a node cannot start
    (status 2) the others are stopped too: a cluster that is half there by mistake helps nobody. A node that dies later
    is left dead, as on machines of their own; the others go on.

    Args:
        config: path of the file.
        names: ``host:port`` of each node.
        log_format: passed on to the nodes.
    """
    command = [sys.executable, "-m", "shoal.serve", "--config", str(config)]
    extra = ["--log-format", log_format] if log_format else []
    # Sessions of their own: Ctrl-C reaches this process alone, which tells the children exactly once.
    children = {
        name: subprocess.Popen([*command, "--node", name, *extra], start_new_session=True) for name in names
    }

    def forward(signum: int, _: FrameType | None) -> None:
        for child in children.values():
            if child.poll() is None:
                child.send_signal(signum)

    for signum in _SIGNALS:
        signal.signal(signum, forward)
    statuses: dict[str, int] = {}
    while children:
        for name, child in list(children.items()):
            try:
                statuses[name] = child.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            del children[name]
            if statuses[name] == 2:
                forward(signal.SIGTERM, None)
    return max((abs(s) for s in statuses.values()), default=0)
