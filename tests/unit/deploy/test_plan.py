"""What has to be done, from what a machine has told."""

from typing import Any

import pytest

from shoal.deploy.plan import Place, Target, lacking, problems, ready_engines, work_for

TARGET = Target("2-ab", "2", {"cluster.yaml": "c", "environment": "e", "keys.yaml": "k"}, "u")
PLACE = Place("a:1", "a", "/opt/shoal")


def facts(**node: Any) -> dict[str, Any]:
    there = {
        "release": TARGET.note,
        "former": None,
        "started": TARGET.note | {"unit": "u"},
        "pid": 7,
        "unit": "u",
    }
    return {"installed": ["2-ab"], "current": "2-ab", "nodes": {"a:1": there | node}}


def started(**changes: Any) -> dict[str, Any]:
    return TARGET.note | {"unit": "u"} | changes


def test_where_all_is_as_it_should_be_nothing_is_done():
    assert work_for("a:1", TARGET, facts()).nothing


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"pid": None}, "it does not run"),
        ({"started": None}, "it was not started by `shoal deploy`"),
        ({"started": started(install="1-aa", version="1")}, "it runs 1 (1-aa), 2-ab is wanted"),
        ({"started": started(files=TARGET.note["files"] | {"environment": "x"})}, "environment has changed"),
        ({"started": started(unit="other")}, "its systemd unit has changed"),
    ],
)
def test_a_node_is_started_anew_for_a_reason(node: dict[str, Any], reason: str):
    work = work_for("a:1", TARGET, facts(**node))
    assert (work.reasons, work.restart) == ((reason,), True)


def test_new_keys_are_written_without_a_restart():
    files = TARGET.note["files"] | {"keys.yaml": "old"}
    work = work_for(
        "a:1", TARGET, facts(release=TARGET.note | {"files": files}, started=started(files=files))
    )
    assert (work.release, work.restart) == (True, False)


def machine(**more: Any) -> dict[str, Any]:
    return {
        "python": "/usr/bin/python3",
        "writable": True,
        "systemd": True,
        "root": True,
        "user": "me",
    } | more


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"python": None}, "no Python 3.11"),
        ({"writable": False}, "me may not write to /opt/shoal: use --sudo"),
        ({"systemd": False}, "use --no-systemd"),
        ({"root": False}, "units are written by root"),
        ({}, ""),
    ],
)
def test_what_keeps_a_machine_from_being_deployed_to_is_told_with_what_helps(
    wrong: dict[str, Any], told: str
):
    found = problems(PLACE, machine(**wrong), sudo=False)
    assert told in "".join(found)
    assert len(found) == bool(told)


def status(uptime: float = 9, **own: Any) -> dict[str, Any]:
    engine = {"id": "m-0", "model": "m", "state": "ready", "standby": False, "detail": ""}
    mine = {"name": "a:1", "state": "alive", "replacing": None, "engines": [engine]} | own
    other = {"name": "b:1", "state": "alive", "replacing": None, "engines": [engine]}
    return {"uptime": uptime, "members": [mine, other]}


def test_a_node_is_ready_when_it_has_its_engines_and_the_cluster_what_it_had():
    assert ready_engines(status()) == {"m": 2}
    assert lacking({"m": 2}, "a:1", status()) == ""


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (None, "does not answer"),
        (status(uptime=1), "only just started"),
        (status(state="suspect"), "suspect in its own view"),
        (status(replacing="waits"), "of the former release are being replaced"),
        (
            status(
                engines=[
                    {"id": "m-0", "model": "m", "state": "starting", "standby": False, "detail": "loading"}
                ]
            ),
            "m-0 is starting: loading",
        ),
        (status(engines=[]), "1 of 2 engines of m are ready"),
    ],
)
def test_until_then_the_next_node_has_to_wait(seen: dict[str, Any] | None, told: str):
    assert told in lacking({"m": 2}, "a:1", seen)


def test_a_machine_has_a_unit_for_each_node_and_none_without_systemd():
    assert (PLACE.unit, PLACE.home) == ("shoal-1.service", "/opt/shoal/nodes/a_1")
    assert Place("[::1]:8000", "a", "/p").home == "/p/nodes/__1_8000"
    bare = Place("a:1", "a", "/opt/shoal", systemd=False)
    assert (bare.unit, bare.unit_text) == ("", "")
