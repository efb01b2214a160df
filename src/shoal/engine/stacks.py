"""What the Python threads of an engine are at, into its log: for whoever asks later why it hung."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path

from shoal.engine import logs, tree
from shoal.engine.record import Record
from shoal.engine.tree import Process

TIME_LIMIT = 3.0
"""Seconds for all processes together: who waits for this is the restart of the engine."""


async def dump(rec: Record, limit: float = TIME_LIMIT) -> None:
    """Append the stacks of every process of the engine to its log, or why they are not to be had. Raises nothing.

    Args:
        rec: the engine.
        limit: seconds.
    """
    processes = await asyncio.to_thread(_alive, rec)
    program = _py_spy()
    if program is None:
        texts = ["py-spy is not installed"] * len(processes)
    else:
        texts = await asyncio.gather(*(_stacks(program, p.pid, limit) for p in processes))
    for process, text in zip(processes, texts, strict=True):
        note = f"stacks of {process}, in state {process.state} of proc(5):\n{text}"
        await asyncio.to_thread(logs.note, Path(rec.log), note)


def _alive(rec: Record) -> list[Process]:
    found = (tree.process(ident.pid) for ident in rec.members)
    return [p for p in found if p is not None and p.ident in rec.members and p.alive]


def _py_spy() -> str | None:
    """Return the program: beside our interpreter, whose directory need not be in PATH, or wherever it is."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy")


async def _stacks(program: str, pid: int, limit: float) -> str:
    # What hangs does not run away, and a stopped process (SIGSTOP) could not be paused.
    command = (program, "dump", "--nonblocking", "--pid", str(pid))
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return f"{program}: {error.strerror}"
    try:
        async with asyncio.timeout(limit):
            output, _ = await process.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return f"py-spy was not done within {limit:g} s"
    # The command line that py-spy shows may hold secrets; it stands in the log already, without them.
    command_line = f"Process {pid}:"
    lines = output.decode(errors="replace").rstrip().splitlines()
    return "\n".join(line for line in lines if not line.startswith(command_line))
