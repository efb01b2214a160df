"""One node of an engine that Ray distributes: a Ray node for this generation alone and, on the first, the engine.

Run as a script by the interpreter vLLM and Ray are installed in, which need not know Shoal: only the standard library
is imported here (and Ray, to ask who has joined). To Shoal this is one part's process like any other: it lives as long
as the part does, and any end of it ends the generation everywhere.

    python ray_member.py --rank 0 --nodes 2 --head 10.0.0.1:20005 --address 10.0.0.1 -- python vllm_launcher.py ...
    python ray_member.py --rank 1 --nodes 2 --head 10.0.0.1:20005 --address 10.0.0.2

- The first node's Ray is the head, at a port of this generation; the others wait for it. The engine starts when all are
  there, and finds its cluster by ``RAY_ADDRESS``.
- When the engine ends, so does Ray, and this exits with the engine's status. When Ray ends, or one of its processes, so
  does the engine, and this exits with `LOST`.
- Ray's processes go without ceremony (it would drain for 30 s): whatever descends from this process is killed. It
  adopts what lost its parent (``PR_SET_CHILD_SUBREAPER``), so nothing is missed.
- Ray's files lie in a directory of this process alone, that goes with it. Those whose owner was killed, as told by a
  lock, go when the next one starts: `sweep`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PREFIX = "shoal-ray-"
"""Begins the names of Ray's directories. They are short: a socket's path has 107 bytes, and Ray takes some 70."""

LOST = 70
"""Exit status when Ray, or the others, are lost (``EX_SOFTWARE`` of sysexits.h)."""

OBJECT_STORE = 256 << 20
"""Bytes of Ray's object store, in /dev/shm. By default that is 30 % of the memory; vLLM hands out little but orders."""

_LOCK = "lock"
_LONGEST = 20  # bytes of the path that Ray's directories lie in
_EVERY = 0.1  # seconds between two looks
_GRACE = 30.0  # seconds that the engine has to end when it is told to, as vLLM's own shutdown allows
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_JOINED = "joined"

# A node that lost its head ends after this many seconds, if Shoal has not ended it long before. Ray's own is 60.
_TIMES = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}


@dataclass(frozen=True)
class Member:
    """What this node is told.

    Attributes:
        rank: its number; 0 is the head.
        nodes: how many there are.
        head: address and port of the head's Ray.
        address: numeric address of this node.
        join_timeout: seconds to wait for the others.
        engine: command line of the engine, on the head alone.
    """

    rank: int
    nodes: int
    head: tuple[str, int]
    address: str
    join_timeout: float
    engine: tuple[str, ...]

    def ray_command(self, directory: Path) -> list[str]:
        """Return the command line of this node's ``ray start``."""
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        words += ["--node-ip-address", self.address, "--temp-dir", str(directory)]
        words += ["--object-store-memory", str(OBJECT_STORE)]
        # Any free ports: by default workers take those from 10002 on, where engines and other clusters may be.
        words += ["--min-worker-port", "0", "--max-worker-port", "0"]
        words += ["--dashboard-agent-listen-port", str(_free_port())]
        host, port = self.head
        if self.rank:
            return [*words, "--address", f"{host}:{port}"]
        words += ["--head", "--port", str(port), "--include-dashboard", "false"]
        # Where gRPC is installed Ray serves its clients as well, by default at the same port for every cluster.
        return [*words, "--ray-client-server-port", str(_free_port())] if find_spec("grpc") else words


class LostError(Exception):
    """Ray or another node is gone; the message says which."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one node until its end; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [_JOINED]:
        return _wait_until_joined(int(words[1]))
    member = parse(words)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        with own_directory() as directory:
            try:
                return run(member, directory)
            finally:
                kill_descendants()
    except LostError as error:
        say(str(error))
        return LOST
    except _StoppedError:
        return 0


def parse(words: Sequence[str]) -> Member:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="One node of an engine that Ray distributes.")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--head", required=True, metavar="HOST:PORT")
    parser.add_argument("--address", required=True)
    parser.add_argument("--join-timeout", type=float, default=600.0)
    parser.add_argument("engine", nargs="*")
    given = parser.parse_args(words)
    host, _, port = given.head.rpartition(":")
    if bool(given.engine) != (given.rank == 0):
        parser.error("the engine's command line belongs to rank 0, and to no other")
    return Member(
        rank=given.rank,
        nodes=given.nodes,
        head=(host.strip("[]"), int(port)),
        address=given.address,
        join_timeout=given.join_timeout,
        engine=tuple(given.engine),
    )


def run(member: Member, directory: Path) -> int:
    """Start Ray, and the engine where it belongs; return when one of them has ended.

    Raises:
        LostError: Ray ended, or the others did not come.
    """
    over = time.monotonic() + member.join_timeout
    if member.rank:
        _wait_for(lambda: _answers(member.head), over, f"no Ray head at {member.head[0]}:{member.head[1]}")
    variables = {**environment(os.environ), **_TIMES}
    ray = subprocess.Popen(member.ray_command(directory), env=variables, stdin=subprocess.DEVNULL)
    if member.rank:
        ray.wait()
        raise LostError(f"Ray has ended with status {ray.returncode}")
    _wait_for(lambda: _alive(ray) and _answers(member.head), over, "the Ray head did not start")
    variables["RAY_ADDRESS"] = f"{member.head[0]}:{member.head[1]}"
    waiting = subprocess.Popen([sys.executable, __file__, _JOINED, str(member.nodes)], env=variables)
    _wait_for(
        lambda: _alive(ray) and waiting.poll() is not None,
        over,
        f"not all of {member.nodes} Ray nodes joined within {member.join_timeout:g} s",
    )
    if waiting.returncode:
        raise LostError(f"Ray does not say who has joined: status {waiting.returncode}")
    say(f"all {member.nodes} Ray nodes are there; the engine starts")
    return _engine(member, ray, variables)


def _engine(member: Member, ray: subprocess.Popen[bytes], variables: Mapping[str, str]) -> int:
    engine = subprocess.Popen(member.engine, env=dict(variables), stdin=subprocess.DEVNULL)
    try:
        while (status := engine.poll()) is None:
            _alive(ray)
            time.sleep(_EVERY)
    except _StoppedError:
        engine.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.wait(_GRACE)
        raise
    return status if status >= 0 else 128 - status  # as a shell says it


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for Ray: nobody else's cluster, and a token, if there is one, that all must know."""
    mine = {name: value for name, value in variables.items() if name != "RAY_ADDRESS"}
    if mine.get("RAY_AUTH_TOKEN"):
        mine.setdefault("RAY_AUTH_MODE", "token")
    return mine


# -- who is there


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _alive(ray: subprocess.Popen[bytes]) -> bool:
    if ray.poll() is not None:
        raise LostError(f"Ray has ended with status {ray.returncode}")
    return True


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1.0).close()
    except OSError:
        return False
    return True


def _wait_until_joined(nodes: int) -> int:
    """Ask Ray until it has so many nodes; in a process of its own, since Ray is not to run in that which watches it."""
    ray = importlib.import_module("ray")
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    while sum(bool(node["Alive"]) for node in ray.nodes()) < nodes:
        time.sleep(_EVERY)
    return 0


def _wait_for(condition: Callable[[], bool], over: float, otherwise: str) -> None:
    while not condition():
        if time.monotonic() > over:
            raise LostError(otherwise)
        time.sleep(_EVERY)


# -- the end


class _StoppedError(Exception):
    """A signal said stop."""


def _stop(number: int, frame: object) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    raise _StoppedError


def kill_descendants() -> None:
    """Kill whatever descends from this process, until nothing does."""
    while found := _descendants(os.getpid()):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


# -- Ray's files


@contextlib.contextmanager
def own_directory(parent: Path | None = None) -> Iterator[Path]:
    """Make a directory for Ray's files, and remove it afterwards; those that nobody holds any more go first."""
    sweep(parent)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent or _parent()))
    try:
        with (directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def sweep(parent: Path | None = None) -> list[Path]:
    """Remove the directories whose owner is gone, and return them. Other users' are let be."""
    removed = []
    for directory in (parent or _parent()).glob(f"{PREFIX}*"):
        try:
            if directory.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            with (directory / _LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
                removed.append(directory)
        except OSError:
            continue  # held, or not (yet) one of ours
    return removed


def _parent() -> Path:
    found = tempfile.gettempdir()
    return Path(found if len(found) <= _LONGEST else "/tmp")


def say(sentence: str) -> None:
    """Print a sentence into the engine's log."""
    print(f"shoal: {sentence}", flush=True)


if __name__ == "__main__":
    # A script's directory comes first on sys.path, where our neighbours would shadow modules of the same name.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != here]
    sys.exit(main())
