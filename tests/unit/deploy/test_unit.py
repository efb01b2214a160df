"""The systemd unit, as systemd itself reads it."""

import subprocess
from pathlib import Path

from lib.debian import program
from shoal.deploy.unit import UnitOf, start_command, unit_name, unit_text

ABOUT = UnitOf("10.0.0.1:8000", "/opt/shoal", "/opt/shoal/nodes/10.0.0.1_8000", "root", 30)


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path):
    path = tmp_path / unit_name(ABOUT.node)
    path.write_text(unit_text(ABOUT))
    command = [
        program("systemd-analyze", "systemd"),
        "verify",
        "--man=no",
        "--recursive-errors=no",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    told = [line for line in done.stderr.splitlines() if path.name in line]
    assert told == []


def test_engines_outlive_a_restart_of_it_and_end_with_a_stop():
    lines = unit_text(ABOUT).splitlines()
    assert {"KillMode=process", "RestartKillSignal=SIGUSR2", "KillSignal=SIGTERM"} <= set(lines)
    assert "TimeoutStopSec=120" in lines, "longer than running requests may take"
    assert {"Type=notify", "WatchdogSec=60", "LimitNOFILE=1048576", "OOMPolicy=continue"} <= set(lines)


def test_the_command_follows_the_link_once_and_quotes_what_people_name(tmp_path: Path):
    prefix = tmp_path / "it's here"
    (prefix / "v1/bin").mkdir(parents=True)
    (prefix / "current").symlink_to("v1")
    python = prefix / "v1/bin/python"
    python.write_text('#!/bin/sh\nfor word in "$0" "$@"; do echo "$word"; done\n')
    python.chmod(0o755)
    command = start_command(str(prefix), str(prefix / "nodes/a_1"), "a:1")
    said = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True).stdout
    config = f"{prefix}/nodes/a_1/cluster.yaml"
    assert said.splitlines() == [str(python), "-m", "shoal.serve", "--config", config, "--node", "a:1"]


def test_what_systemd_would_replace_is_written_so_that_it_does_not():
    text = unit_text(UnitOf("a:1", "/opt/100%", "/opt/100%/nodes/a_1", "shoal", 30))
    assert "'/opt/100%%'/current" in text
    assert "$$(readlink -f" in text
    assert "EnvironmentFile=/opt/100%%/nodes/a_1/environment" in text
