"""A stand-in for vLLM's processes: a small program that has children, orphans and shared memory, on command."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import msgspec

from shoal.engine import shm, tree
from shoal.engine.spec import EngineSpec
from support.wait import wait_until

FAKE_ENGINE = """
import json, mmap, os, signal, sys, time

do = json.loads(os.environ["FAKE"])
pids = {"leader": os.getpid()}
maps = []


def share(name):
    with open("/dev/shm/" + name, "wb") as file:
        file.truncate(4096)
    with open("/dev/shm/" + name, "r+b") as file:
        maps.append(mmap.mmap(file.fileno(), 4096))


def live():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as vLLM's workers do not heed it in time
    while True:
        time.sleep(600)


def child(name, session=False, orphan=False, scrub=False, share_name=None):
    read, write = os.pipe()
    if os.fork() == 0:
        if session:
            os.setsid()
        if orphan and os.fork():
            os._exit(0)
        if share_name:
            share(share_name)
        ready = str(os.getpid()).encode()
        if scrub:  # no environment, like a process that has renamed itself
            os.set_inheritable(write, True)
            code = "import os, time; os.write(%d, b'%s'); time.sleep(600)" % (write, ready.decode())
            os.execve(sys.executable, ["worker", "-S", "-c", code], {})
        os.write(write, ready)
        live()
    pids[name] = int(os.read(read, 20))
    if orphan:
        os.wait()


for name, how in do.get("children", {}).items():
    child(name, **how)
if "share" in do:
    share(do["share"])
if "semaphore" in do:  # made as glibc does: mapped under one name, to be found under another
    share(do["semaphore"] + ".new")
    os.link("/dev/shm/" + do["semaphore"] + ".new", "/dev/shm/" + do["semaphore"])
    os.unlink("/dev/shm/" + do["semaphore"] + ".new")
print(do.get("say", "ready"), flush=True)
with open(do["report"] + ".new", "w") as file:
    json.dump(pids, file)
os.rename(do["report"] + ".new", do["report"])
if "exit" in do:
    sys.exit(do["exit"])
if do.get("stubborn"):
    live()
signal.signal(signal.SIGTERM, lambda *_: os._exit(do.get("code", 0)))
while do.get("chatter"):
    for number in range(do["chatter"]):
        os.write(1, b"line %08d\\n" % number)
        time.sleep(0.0002)
    break
while True:
    time.sleep(600)
"""

DATA = Path(__file__).parent / "data"


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    found = tree.process(pid)
    return found is not None and found.alive


class Fake:
    """Makes specs whose engine is the stand-in, and knows the pids it reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.shm_prefix = f"psm_shoaltest{uuid.uuid4().hex[:8]}"
        program = folder / "fake_engine.py"
        program.write_text(FAKE_ENGINE)
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {program} "$@"\n')
        self.python.chmod(0o755)

    def spec(self, name: str = "fake-0", port: int = 0, **do: Any) -> EngineSpec:
        do["report"] = str(self.folder / f"{name}.pids")
        return EngineSpec(
            id=name,
            model="fake",
            kind="vllm",
            model_path="/nowhere",
            served_name="fake",
            python=str(self.python),
            port=port,
            env={"FAKE": json.dumps(do)},
        )

    def pids(self, name: str = "fake-0") -> dict[str, int]:
        """The stand-in's processes by name, as soon as all of them are there."""
        report = self.folder / f"{name}.pids"
        wait_until(report.exists, what=f"the report of {name}", every=0.005)
        return dict(json.loads(report.read_text()))

    def segments(self) -> list[str]:
        """Shared memory of this test that is there now, without the part of the names that tells tests apart."""
        names = (s.name for s in shm.segments() if self.shm_prefix in s.name)
        return sorted(name.replace(self.shm_prefix, "") for name in names)


def engine_spec(**changes: Any) -> EngineSpec:
    """An ordinary spec with some of its fields changed."""
    spec = EngineSpec(
        id="m-0", model="m", kind="vllm", model_path="/models/m", served_name="m", python="/venv/python"
    )
    return msgspec.structs.replace(spec, **changes)
