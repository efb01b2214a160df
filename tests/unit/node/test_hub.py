from pathlib import Path

import pytest

from shoal.cluster.view import Member, MemberState, NodeReport, View
from shoal.node.hub import UNREACHABLE, files_of, first_in_turn, is_hub_id, own_copy, served_path
from support.configs import config

TEXT = """
    nodes: [{host: 10.0.0.1, port: 1}, {host: 10.0.0.2, port: 1}, {host: 10.0.0.3, port: 1, role: gateway}]
    model: {path: org/tiny, name: m}
    cluster: {secret: 0123456789abcdef}
"""
ALIVE, DEAD, UNKNOWN = MemberState.ALIVE, MemberState.DEAD, MemberState.UNKNOWN


def view(me: int, *states: MemberState, failed: tuple[int, ...] = ()) -> View:
    members = []
    for i, state in enumerate(states, start=1):
        name = f"10.0.0.{i}:1"
        report = NodeReport(name=name, version="1", files={"m": UNREACHABLE} if i in failed else {})
        members.append(Member(name=name, state=state, report=report, is_self=i == me))
    return View(me=f"10.0.0.{me}:1", members=tuple(members))


def first(seen: View, *, waited: bool = True) -> str | None:
    loaded = config(TEXT)
    return first_in_turn(loaded, loaded.models[0], seen, waited=waited)


def test_one_node_downloads_and_the_next_one_where_it_cannot():
    assert first(view(2, ALIVE, ALIVE, ALIVE)) == "10.0.0.1:1"
    assert first(view(2, DEAD, ALIVE, ALIVE)) == "10.0.0.2:1"
    assert first(view(2, ALIVE, ALIVE, ALIVE, failed=(1,))) == "10.0.0.2:1"
    # All have failed: each tries again.
    assert first(view(1, ALIVE, ALIVE, ALIVE, failed=(1, 2))) == "10.0.0.1:1"
    # A node that starts gives the others time to be heard.
    assert first(view(2, UNKNOWN, ALIVE, ALIVE), waited=False) == "10.0.0.1:1"
    assert first(view(2, UNKNOWN, ALIVE, ALIVE), waited=True) == "10.0.0.2:1"


@pytest.mark.parametrize(
    ("change", "is_id"),
    [
        (("org/tiny", "org/tiny"), True),
        (("org/tiny", "/models/tiny"), False),
        (("org/tiny", "tiny"), False),
        (("org/tiny, name: m", "org/tiny, name: m, engine: sim"), False),
        (("org/tiny, name: m", "org/tiny, name: m, args: {revision: abc}"), False),
        (("org/tiny, name: m", "org/tiny, name: m, args: {load-format: dummy}"), False),
        (("org/tiny", "'org/tiny:Q4_K_M'"), False),
        (("org/tiny", "'s3://org/tiny'"), False),
    ],
)
def test_what_is_left_to_vllm(change: tuple[str, str], is_id: bool):
    assert is_hub_id(config(TEXT.replace(*change)).models[0]) is is_id


def test_files_are_where_they_are_already(tmp_path: Path):
    loaded = config(TEXT)
    (model,) = loaded.models
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    assert files_of(model, tmp_path, env) == own_copy(model, tmp_path) == tmp_path / "models" / "org--tiny"
    assert served_path(model, loaded, tmp_path) == "org/tiny"
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert files_of(model, tmp_path, env) == snapshot
    assert served_path(model, loaded, tmp_path) == "org/tiny"
    own_copy(model, tmp_path).mkdir(parents=True)
    assert files_of(model, tmp_path, env) == own_copy(model, tmp_path)
    assert served_path(model, loaded, tmp_path) == str(own_copy(model, tmp_path))
    off = config(TEXT + "    files: {fetch: 'off'}\n")
    assert served_path(off.models[0], off, tmp_path) == "org/tiny"
