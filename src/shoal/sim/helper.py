"""A helper process of the simulated engine, standing in for vLLM's EngineCore and Worker processes.

Run as a script, by itself, on the standard library alone. The first one makes a shared memory segment, starts the
others and all map it. They outlive a killed parent, as vLLM's do, so that cleaning up after one can be tested; as a
safety net for tests they end by themselves after an hour.
"""

import mmap
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

_LIFETIME = 3600
_SEGMENT_SIZE = 1 << 16
_ENDING = (signal.SIGTERM, signal.SIGALRM)


def _map(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.ftruncate(fd, _SEGMENT_SIZE)
        return mmap.mmap(fd, _SEGMENT_SIZE)
    finally:
        os.close(fd)


def _name(title: str) -> None:
    Path("/proc/self/comm").write_text(title[:15], encoding="ascii")


def core(title: str, workers: int) -> None:
    """Be the engine core: start `workers` workers, the last one in a session of its own, until told to stop."""
    _name(f"SIM::{title}")
    segment = Path(f"/dev/shm/psm_{secrets.token_hex(4)}")
    held = _map(segment)
    children = [
        subprocess.Popen(
            [sys.executable, "-S", __file__, "worker", str(index), str(segment)],
            stdout=subprocess.PIPE,
            start_new_session=index == workers - 1,
        )
        for index in range(workers)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()  # now it holds the segment
    print(segment, *(child.pid for child in children), flush=True)
    signal.sigwait(_ENDING)
    for child in children:
        child.terminate()
    for child in children:
        child.wait()
    held.close()
    segment.unlink(missing_ok=True)


def worker(index: int, segment: Path) -> None:
    """Be a worker: hold the shared memory until told to stop."""
    _name(f"SIM::Worker_{index}")
    held = _map(segment)
    print("ready", flush=True)
    signal.sigwait(_ENDING)
    held.close()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # they are waited for, wherever they find us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(_LIFETIME)
    if sys.argv[1] == "worker":
        worker(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        core(sys.argv[1], int(sys.argv[2]))
