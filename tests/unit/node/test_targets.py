import json
from pathlib import Path

from shoal.cluster.view import Member, MemberState, View
from shoal.node.events import Events
from shoal.node.targets import Targets


def view(**states: MemberState) -> View:
    members = [Member(name="a:1", state=MemberState.ALIVE, is_self=True)]
    members += [Member(name=f"{name}:1", state=state) for name, state in states.items()]
    return View(me="a:1", members=tuple(members))


def test_the_file_has_all_nodes_but_those_that_left(tmp_path: Path):
    path = tmp_path / "shoal.json"
    targets = Targets(path, "c", Events())
    targets.update(view(b=MemberState.DEAD, d=MemberState.LEFT))
    assert json.loads(path.read_text()) == [{"targets": ["a:1", "b:1"], "labels": {"cluster": "c"}}]
    targets.update(view(b=MemberState.ALIVE, d=MemberState.ALIVE))
    assert json.loads(path.read_text())[0]["targets"] == ["a:1", "b:1", "d:1"]
    assert [p.name for p in tmp_path.iterdir()] == ["shoal.json"]


def test_it_is_written_only_when_there_are_others(tmp_path: Path):
    path = tmp_path / "shoal.json"
    targets = Targets(path, "c", Events())
    targets.update(view(b=MemberState.ALIVE))
    path.unlink()
    targets.update(view(b=MemberState.SUSPECT))
    assert not path.exists()


def test_without_its_directory_or_a_path_nothing_is_written(tmp_path: Path):
    for path in (None, tmp_path / "away" / "shoal.json"):
        Targets(path, "c", Events()).update(view())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told_once(tmp_path: Path):
    events = Events()
    (tmp_path / "shoal.json").mkdir()
    targets = Targets(tmp_path / "shoal.json", "c", events)
    for _ in range(3):
        targets.update(view())
    assert [e.level for e in events.last()] == ["warning"]
