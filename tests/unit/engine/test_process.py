"""The life of an engine's processes, with a stand-in for vLLM that leaves behind what vLLM leaves behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from shoal.engine import diagnosis, logs, record, tree
from shoal.engine.exits import Exit
from shoal.engine.ports import hold
from shoal.engine.process import Ended, EngineProcess, end_leftovers
from shoal.engine.record import Record
from shoal.engine.spawn import StartError
from shoal.engine.spec import EngineSpec
from support.ports import free_ports
from support.wait import wait_until
from unit.engine.fakes import Fake, alive

FAMILY = {
    "child": {},
    "worker": {"scrub": True},
    "other session": {"session": True},
    "orphan": {"session": True, "orphan": True},
}

START = """
import asyncio, sys
from pathlib import Path
import msgspec
from shoal.engine.process import EngineProcess
from shoal.engine.spec import EngineSpec

async def main():
    spec = msgspec.json.decode(sys.argv[1], type=EngineSpec)
    process = await EngineProcess.start(spec, Path(sys.argv[2]))
    print("started", flush=True)
    if sys.stdin.readline() == "survey\\n":
        await process.survey()
        print("surveyed", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def run(main: Coroutine[Any, Any, Any], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)


async def started(fake: Fake, spec: EngineSpec) -> tuple[EngineProcess, dict[str, int]]:
    """Start a stand-in and wait until it and all its relatives are there."""
    process = await EngineProcess.start(spec, fake.state)
    return process, await asyncio.to_thread(fake.pids, spec.id)


def started_by_another(fake: Fake, spec: EngineSpec, survey: bool = False) -> tuple[Record, dict[str, int]]:
    """Start a stand-in from a node process that is killed then, and return what it left on disk."""
    command = [sys.executable, "-c", START, msgspec.json.encode(spec).decode(), str(fake.state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        assert node.stdout.readline() == "started\n"
        pids = fake.pids(spec.id)
        if survey:
            node.stdin.write("survey\n")
            node.stdin.flush()
            assert node.stdout.readline() == "surveyed\n"
        node.kill()
        node.wait()
    records, problems = record.read_all(fake.state)
    assert problems == []
    return records[0], pids


def stdin_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/fd/0").readlink())


def gone(pids: dict[str, int]) -> bool:
    return not any(alive(pid) for pid in pids.values())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("do", "expected"),
    [({"exit": 0}, Exit(code=0)), ({"exit": 3}, Exit(code=3))],
    ids=["code 0", "code 3"],
)
def test_an_engine_that_exits_is_noticed_with_its_code(
    fake: Fake, do: dict[str, Any], expected: Exit, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        process = await EngineProcess.start(fake.spec(**do), fake.state)
        assert await asyncio.wait_for(process.exited, 10) == expected
        ended = await process.terminate(0)
        assert ended.exit == expected
        assert (ended.killed, ended.left) == ((), ())

    run(main(), loop)


def test_an_engine_that_is_killed_is_noticed_with_the_signal(fake: Fake) -> None:
    async def main() -> None:
        process, pids = await started(fake, fake.spec())
        os.kill(pids["leader"], signal.SIGKILL)
        assert await asyncio.wait_for(process.exited, 10) == Exit(signal=9)
        await process.terminate(0)

    run(main())


def test_an_engine_has_a_session_of_its_own_and_writes_to_its_log(fake: Fake) -> None:
    async def main() -> None:
        process, pids = await started(fake, fake.spec(say="hello\nValueError: bad"))
        assert os.getsid(pids["leader"]) == pids["leader"] == process.pid
        assert stdin_of(process.pid) == os.devnull
        text = process.log.read_text()
        assert "shoal: starting engine fake-0" in text
        assert "hello" in text
        assert diagnosis.last_error(process.log) == "ValueError: bad"
        assert tree.marker_of(process.pid) == process.record.marker
        await process.terminate(1)

    run(main())


def test_the_log_is_appended_to_by_every_start(fake: Fake) -> None:
    async def main() -> None:
        for _ in range(2):
            process = await EngineProcess.start(fake.spec(exit=0), fake.state)
            await process.exited
            await process.terminate(0)
        assert process.log.read_text().count("shoal: starting engine") == 2

    run(main())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_terminate_ends_the_whole_tree_and_what_it_leaves_in_shared_memory(
    fake: Fake, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        worker = {"worker": {"share_name": f"{fake.shm_prefix}_worker"}}
        spec = fake.spec(
            children=FAMILY | worker, share=f"{fake.shm_prefix}_leader", semaphore=f"{fake.shm_prefix}_sem"
        )
        process, pids = await started(fake, spec)
        (Path("/dev/shm") / f"{fake.shm_prefix}_foreign").write_text("somebody else's")
        assert len(fake.segments()) == 4
        ended = await process.terminate(10)
        assert gone(pids)
        assert fake.segments() == ["_foreign"]
        assert ended.exit == Exit(code=0)
        assert len(ended.killed) == len(pids) - 1  # the leader obeyed
        assert len(ended.segments) == 3
        assert ended.left == ()
        assert record.read_all(fake.state) == ([], [])
        assert "exited with code 0" in str(ended)
        assert "killed" in str(ended)

    run(main(), loop)


def test_nothing_is_left_of_an_engine_whose_leader_was_killed(fake: Fake) -> None:
    async def main() -> None:
        spec = fake.spec(children=FAMILY | {"late": {"share_name": f"{fake.shm_prefix}_late"}})
        process, pids = await started(fake, spec)
        await process.survey()
        os.kill(pids["leader"], signal.SIGKILL)
        await process.exited
        assert any(alive(pid) for pid in pids.values())
        ended = await process.terminate(0)
        assert gone(pids)
        assert fake.segments() == []
        assert ended.exit == Exit(signal=9)
        assert len(ended.killed) == len(pids) - 1

    run(main())


def test_shared_memory_is_removed_also_when_the_whole_tree_died_at_once(fake: Fake) -> None:
    async def main() -> None:
        spec = fake.spec(
            children={"worker": {"share_name": f"{fake.shm_prefix}_w"}}, share=f"{fake.shm_prefix}_l"
        )
        process, pids = await started(fake, spec)
        await process.survey()
        for pid in reversed(pids.values()):
            os.kill(pid, signal.SIGKILL)
        await process.exited
        await asyncio.to_thread(wait_until, lambda: gone(pids))
        assert len((await process.terminate(0)).segments) == 2
        assert fake.segments() == []

    run(main())


def test_an_engine_that_does_not_heed_is_killed_after_its_grace(fake: Fake) -> None:
    async def main() -> None:
        process, pids = await started(fake, fake.spec(stubborn=True))
        ended = await process.terminate(0.2)
        assert ended.exit == Exit(signal=9)
        assert 0.2 <= ended.seconds < 5
        assert gone(pids)

    run(main())


def test_a_stopped_engine_is_ended_with_its_stopped_children(fake: Fake) -> None:
    async def main() -> None:
        process, pids = await started(fake, fake.spec(children=FAMILY))
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
        assert (await process.terminate(10)).exit == Exit(code=0)
        assert gone(pids)

    run(main())


def test_a_second_terminate_cuts_the_first_short(fake: Fake) -> None:
    async def main() -> None:
        process, _ = await started(fake, fake.spec(stubborn=True))
        begun = time.monotonic()
        first = asyncio.create_task(process.terminate(60))
        await asyncio.sleep(0)
        second = await process.terminate(0)
        assert await first == second
        assert second.exit == Exit(signal=9)
        assert time.monotonic() - begun < 5

    run(main())


def test_a_cancelled_terminate_goes_on_for_others(fake: Fake) -> None:
    async def main() -> None:
        process, pids = await started(fake, fake.spec())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.terminate(10), 0)
        assert (await process.terminate(10)).exit == Exit(code=0)
        assert gone(pids)

    run(main())


def test_a_start_that_is_cancelled_leaves_no_engine(fake: Fake) -> None:
    async def main() -> None:
        starting = asyncio.create_task(EngineProcess.start(fake.spec(), fake.state))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert record.read_all(fake.state) == ([], [])

    run(main())


def test_other_engines_and_programs_are_left_alone(fake: Fake) -> None:
    async def main() -> None:
        first, _ = await started(fake, fake.spec("a-0", children=FAMILY))
        second, pids = await started(fake, fake.spec("b-0", children=FAMILY))
        await first.terminate(0.5)
        assert all(alive(pid) for pid in pids.values())
        await second.terminate(0.5)

    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        run(main())
        assert alive(stranger.pid)
        stranger.kill()


def test_a_program_that_is_not_there_is_told_and_leaves_no_record(fake: Fake) -> None:
    async def main() -> None:
        spec = msgspec.structs.replace(fake.spec(), python="/nonexistent/python")
        with pytest.raises(StartError, match="cannot start engine fake-0: /nonexistent/python: No such file"):
            await EngineProcess.start(spec, fake.state)
        assert record.read_all(fake.state) == ([], [])

    run(main())


def test_an_engine_that_cannot_be_watched_is_not_started(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(pid: int) -> int:
        raise OSError(24, "Too many open files")

    async def main() -> None:
        monkeypatch.setattr(os, "pidfd_open", none_left)
        with pytest.raises(StartError, match="cannot watch engine fake-0: Too many open files"):
            await EngineProcess.start(fake.spec(), fake.state)
        assert record.read_all(fake.state) == ([], [])

    run(main())


def test_a_log_that_cannot_be_opened_is_told(fake: Fake) -> None:
    async def main() -> None:
        fake.state.mkdir()
        (fake.state / "logs").write_text("in the way")
        with pytest.raises(StartError, match=r"cannot start engine fake-0: .*logs"):
            await EngineProcess.start(fake.spec(), fake.state)

    run(main())


def test_on_a_full_disk_an_engine_starts_without_a_log(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(logs, "open_log", full)
            process, pids = await started(fake, fake.spec())
        await process.terminate(10)
        assert gone(pids)

    run(main())


def test_a_record_that_cannot_be_written_does_not_keep_an_engine_from_serving(fake: Fake) -> None:
    async def main() -> None:
        fake.state.mkdir()
        (fake.state / "engines").write_text("in the way")
        process, pids = await started(fake, fake.spec())
        assert "record could not be written" in process.log.read_text()
        (fake.state / "engines").unlink()
        await process.survey()
        assert [r.id for r in record.read_all(fake.state)[0]] == ["fake-0"]
        await process.terminate(10)
        assert gone(pids)

    run(main())


def test_an_engine_survives_its_node_process_and_is_adopted(fake: Fake) -> None:
    spec = fake.spec(children=FAMILY, share=f"{fake.shm_prefix}_leader", code=5)
    rec, pids = started_by_another(fake, spec, survey=True)

    async def main() -> None:
        assert all(alive(pid) for pid in pids.values())
        adoption = await EngineProcess.adopt(rec, fake.state, spec)
        assert adoption.reason == ""
        process = adoption.process
        assert process is not None
        assert process.adopted
        assert process.pid == pids["leader"]
        ended = await process.terminate(10)
        assert ended.exit in {Exit(code=5), Exit()}  # not told by all kernels, see exits.py
        assert gone(pids)
        assert fake.segments() == []
        assert record.read_all(fake.state) == ([], [])

    run(main())


def test_the_end_of_an_adopted_engine_is_noticed(fake: Fake) -> None:
    rec, pids = started_by_another(fake, fake.spec())

    async def main() -> None:
        process = (await EngineProcess.adopt(rec, fake.state)).process
        assert process is not None
        os.kill(pids["leader"], signal.SIGKILL)
        assert await asyncio.wait_for(process.exited, 10) in {Exit(signal=9), Exit()}
        await process.terminate(0)

    run(main())


def test_an_engine_can_be_handed_from_one_node_process_to_the_next_without_noticing(fake: Fake) -> None:
    async def main() -> None:
        process, pids = await started(fake, fake.spec())
        process.detach()
        [rec] = record.read_all(fake.state)[0]
        again = (await EngineProcess.adopt(rec, fake.state)).process
        assert again is not None
        assert alive(pids["leader"])
        await again.terminate(10)

    run(main())


def refused(fake: Fake, rec: Record, spec: EngineSpec | None = None) -> str:
    async def main() -> str:
        adoption = await EngineProcess.adopt(rec, fake.state, spec)
        assert adoption.process is None
        return adoption.reason

    return asyncio.run(main())


def test_adoption_is_refused_with_the_reason(fake: Fake) -> None:
    spec = fake.spec()
    rec, pids = started_by_another(fake, spec)
    assert rec.leader is not None
    found = tree.process(rec.leader.pid)
    assert found is not None
    taken = f"process {found.pid} is another one now ({found.name})"

    changed = msgspec.structs.replace(spec, args=("--max-model-len", "1"), gpus=(1,), port=1)
    assert refused(fake, rec, changed) == "its configuration has changed: args, gpus"

    reused = msgspec.structs.replace(rec, leader=tree.Ident(rec.leader.pid, rec.leader.start - 1))
    assert refused(fake, reused) == taken

    forged = msgspec.structs.replace(rec, marker="0" * 32)
    assert refused(fake, forged) == taken

    rebooted = msgspec.structs.replace(rec, boot="another")
    assert refused(fake, rebooted) == "the machine was restarted since"

    unfinished = msgspec.structs.replace(rec, leader=None)
    assert refused(fake, unfinished) == "the node process died while it was starting the engine"

    assert all(alive(pid) for pid in pids.values())
    os.kill(pids["leader"], signal.SIGKILL)
    wait_until(lambda: gone(pids))
    assert refused(fake, rec) == f"its process {pids['leader']} is gone"


def test_leftovers_of_a_dead_engine_are_ended_by_what_was_recorded(fake: Fake) -> None:
    spec = fake.spec(children=FAMILY, share=f"{fake.shm_prefix}_leader")
    rec, pids = started_by_another(fake, spec, survey=True)
    os.kill(pids["leader"], signal.SIGKILL)
    wait_until(lambda: not alive(pids["leader"]))
    ended = asyncio.run(end_leftovers(rec, fake.state, 0))
    assert gone(pids)
    assert len(ended.killed) == len(pids) - 1
    assert ended.segments == (f"{fake.shm_prefix}_leader",)
    assert record.read_all(fake.state) == ([], [])


def test_leftovers_that_live_are_asked_first(fake: Fake) -> None:
    rec, pids = started_by_another(fake, fake.spec(children=FAMILY))
    ended = asyncio.run(end_leftovers(rec, fake.state, 10))
    assert ended.exit in {Exit(code=0), Exit()}
    assert gone(pids)


def test_an_engine_whose_start_was_not_recorded_to_the_end_is_found_by_its_marker(fake: Fake) -> None:
    rec, pids = started_by_another(fake, fake.spec(children={"orphan": FAMILY["orphan"]}))
    early = msgspec.structs.replace(rec, leader=None, members=(), segments=())
    ended = asyncio.run(end_leftovers(early, fake.state, 0))
    assert gone(pids)
    assert len(ended.killed) == len(pids)


def test_leftovers_of_an_earlier_boot_end_nobody(fake: Fake) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        found = tree.process(stranger.pid)
        assert found is not None
        rec, pids = started_by_another(fake, fake.spec(exit=0))
        wait_until(lambda: gone(pids))
        old = msgspec.structs.replace(rec, boot="another", leader=found.ident, members=(found.ident,))
        ended = asyncio.run(end_leftovers(old, fake.state, 0))
        assert (ended.killed, ended.left) == ((), ())
        assert alive(stranger.pid)
        stranger.kill()


def test_the_port_is_held_until_the_engine_has_been_ended(fake: Fake) -> None:
    port = free_ports(1)[0]

    async def main() -> None:
        reservation = hold("127.0.0.1", port)
        process = await EngineProcess.start(fake.spec(port=port), fake.state, reservation=reservation)
        await asyncio.to_thread(fake.pids)
        assert hold("127.0.0.1", port) is None
        os.kill(process.pid, signal.SIGKILL)
        await process.exited
        assert hold("127.0.0.1", port) is None
        await process.terminate(0)
        free = hold("127.0.0.1", port)
        assert free is not None
        free.release()

    run(main())


def test_adoption_holds_the_port_of_an_engine_that_does_not_listen_yet(fake: Fake) -> None:
    port = free_ports(1)[0]
    rec, _ = started_by_another(fake, fake.spec(port=port))

    async def main() -> None:
        process = (await EngineProcess.adopt(rec, fake.state)).process
        assert process is not None
        assert hold("127.0.0.1", port) is None
        await process.terminate(10)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", port))

    run(main())


def test_the_event_loop_goes_on_while_the_tree_is_looked_at(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        process, _ = await started(fake, fake.spec())
        looking, looked = threading.Event(), threading.Event()
        members = tree.members

        def slowly(*args: Any) -> list[tree.Process]:
            looking.set()
            assert looked.wait(10)
            return members(*args)

        monkeypatch.setattr(tree, "members", slowly)
        survey = asyncio.create_task(process.survey())
        await asyncio.to_thread(looking.wait)  # this coroutine has its turn meanwhile
        looked.set()
        await survey
        await process.terminate(5)

    run(main())


def test_what_was_done_reads_as_a_sentence() -> None:
    ended = Ended(
        exit=Exit(signal=9),
        killed=("Worker (pid 3)",),
        left=("stuck (pid 4)",),
        segments=("psm_1",),
        seconds=1.25,
    )
    assert str(ended) == (
        "was killed by SIGKILL, gone after 1.2 s; killed Worker (pid 3); removed shared memory it left behind: psm_1;"
        " STILL THERE: stuck (pid 4)"
    )
    assert str(Ended(exit=None)) == "ended, gone after 0.0 s"
