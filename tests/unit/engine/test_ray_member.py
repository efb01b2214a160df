"""A Ray node of a group without Ray: what is asked of it, and what is left of it. Real Ray: tests/real/test_ray.py."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shoal.engine import ray_member
from shoal.engine.ray_member import LOST, PREFIX, Member, environment, own_directory, parse, sweep
from support.ports import free_ports
from support.processes import runs
from support.wait import wait_until

HEAD = ["--rank", "0", "--nodes", "2", "--head", "10.0.0.1:20005", "--address", "10.0.0.1"]
NEXT = ["--rank", "1", "--nodes", "2", "--head", "10.0.0.1:20005", "--address", "10.0.0.2"]


def test_the_head_is_at_the_generations_port_and_the_others_join_it() -> None:
    head, other = parse([*HEAD, "--", "vllm", "serve", "--port", "1"]), parse(NEXT)
    assert head.engine == ("vllm", "serve", "--port", "1")
    assert other.engine == ()
    words = head.ray_command(Path("/d"))
    assert words[:4] == [sys.executable, "-m", "ray.scripts.scripts", "start"]
    assert words[words.index("--temp-dir") + 1] == "/d"
    assert "--block" in words
    assert words[words.index("--head") :][:3] == ["--head", "--port", "20005"]
    others = other.ray_command(Path("/d"))
    assert others[-2:] == ["--address", "10.0.0.1:20005"]
    assert others[others.index("--node-ip-address") + 1] == "10.0.0.2"
    assert "--head" not in others


@pytest.mark.parametrize("words", [HEAD, [*NEXT, "--", "vllm"]])
def test_the_engine_belongs_to_the_head(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert "belongs to rank 0" in capsys.readouterr().err


def test_no_other_cluster_is_joined_and_a_token_is_asked_for() -> None:
    assert environment({"RAY_ADDRESS": "elsewhere:6379", "A": "1"}) == {"A": "1"}
    assert environment({"RAY_AUTH_TOKEN": "t"}) == {"RAY_AUTH_TOKEN": "t", "RAY_AUTH_MODE": "token"}


def test_a_directory_goes_with_its_owner_or_when_the_next_one_comes(tmp_path: Path) -> None:
    with own_directory(tmp_path) as mine:
        (mine / "session").mkdir()
        abandoned = tmp_path / f"{PREFIX}killed"
        abandoned.mkdir()
        (abandoned / "lock").touch()
        (tmp_path / "else").mkdir()
        not_ours = tmp_path / f"{PREFIX}new"  # its owner has not locked it yet
        not_ours.mkdir()
        assert sweep(tmp_path) == [abandoned]
        assert mine.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["else", not_ours.name]


def test_a_lock_that_is_held_keeps_a_directory(tmp_path: Path) -> None:
    held = tmp_path / f"{PREFIX}held"
    held.mkdir()
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep(tmp_path) == []
    assert sweep(tmp_path) == [held]


def test_a_head_that_never_comes_is_waited_for_until_the_time_is_over() -> None:
    (port,) = free_ports(1)
    words = ["--rank", "1", "--nodes", "2", "--head", f"127.0.0.1:{port}", "--address", "127.0.0.1"]
    run = subprocess.run(
        [sys.executable, ray_member.__file__, *words, "--join-timeout", "0.2"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert run.returncode == LOST
    assert run.stdout == f"shoal: no Ray head at 127.0.0.1:{port}\n"


# A program in Ray's place that starts another one, which loses its parent, and waits.
_RAY = (
    "import subprocess, sys, time\n"
    "p = subprocess.Popen([sys.executable, '-c', 'import subprocess, sys;"
    ' subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\'])\n'
    "p.wait()\nprint('started', flush=True)\ntime.sleep(600)"
)
_MEMBER = (
    "import sys\nfrom pathlib import Path\nfrom shoal.engine import ray_member\n"
    f"ray_member.Member.ray_command = lambda self, directory: [sys.executable, '-c', {_RAY!r}]\n"
    "ray_member._answers = lambda address: True\nsys.exit(ray_member.main())"
)


@pytest.mark.parametrize("how", ["told", "lost"])
def test_nothing_that_ray_started_outlives_it(how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _MEMBER, *NEXT], stdout=subprocess.PIPE, text=True
    ) as member:
        assert member.stdout is not None
        assert member.stdout.readline() == "started\n"
        process = psutil.Process(member.pid)
        ray, orphan = wait_until(lambda: found if len(found := process.children()) == 2 else None)
        if how == "told":
            member.send_signal(signal.SIGTERM)
        else:
            min(ray, orphan, key=lambda p: p.pid).kill()
        assert member.wait(20) == (0 if how == "told" else LOST)
        assert not runs(ray)
        assert not runs(orphan)


def test_members_are_plain_data() -> None:
    assert parse(NEXT) == Member(1, 2, ("10.0.0.1", 20005), "10.0.0.2", 600.0, ())
