"""The node's keys: what it reads, and what it makes of changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shoal.config.keys import Keys
from shoal.gateway import counters
from shoal.gateway.key_cells import KeyCells, size
from shoal.gateway.keys import MAX_KEYS, KeyTable, digest_of
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.keys import KeySlots, NodeKeys

HASHES = {name: digest_of(name.encode()).hex() for name in "abc"}


def text(*names: str, more: str = "") -> str:
    return "keys:\n" + "".join(f"  - name: {n}\n    hash: {HASHES[n]}\n{more}" for n in names)


class Subject:
    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.events = Events()
        self.tables: list[KeyTable | None] = []
        self.cells = KeyCells(counters.create(1, size(1)), 1)
        self.keys = NodeKeys(Keys(file=str(path), **settings), self.events, self.cells, self.tables.append)

    def told(self) -> list[str]:
        return [e.text for e in self.events.last()]

    def names(self) -> list[str]:
        table = self.tables[-1]
        assert table is not None
        return [key.name for key in table.keys]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = tmp_path / "keys.yaml"
    path.write_text(text("a", "b"))
    return Subject(path)


def test_without_settings_nobody_is_asked():
    tables: list[KeyTable | None] = []
    NodeKeys(Keys(), Events(), KeyCells(counters.create(1, size(1)), 1), tables.append)
    assert tables == [None]


def test_keys_of_the_settings_and_of_the_file(tmp_path: Path):
    path = tmp_path / "keys.yaml"
    more = "    role: admin\n    models: [x]\n    requests_per_minute: 5\n    expires: 2030-01-01\n    priority: -3\n"
    path.write_text(text("a", more=more))
    subject = Subject(path, api_keys=["k" * 16], admin_keys=["l" * 16], metrics="admin")
    table = subject.tables[-1]
    assert table is not None
    assert not table.open_metrics
    plain, admin, a = table.keys
    assert (plain.name, plain.digest, plain.admin) == ("api_keys[0]", digest_of(b"k" * 16), False)
    assert (admin.name, admin.admin) == ("admin_keys[0]", True)
    assert (a.digest, a.admin, a.models, a.requests_per_minute, a.priority) == (
        bytes.fromhex(HASHES["a"]), True, {"x"}, 5, -3,
    )  # fmt: skip
    assert a.expires == 1893456000
    assert len({key.slot for key in table.keys}) == 3


def test_a_file_that_says_nothing_lets_nobody_in(tmp_path: Path):
    path = tmp_path / "keys.yaml"
    path.write_text("keys: []\n")
    (table,) = Subject(path).tables
    assert table is not None
    assert table.keys == ()


@pytest.mark.parametrize("content", ["", "nonsense", "keys: 5", "keys:\n  - name: a\n", None])
def test_a_file_that_cannot_be_used_keeps_the_node_from_starting(tmp_path: Path, content: str | None):
    path = tmp_path / "keys.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartError, match=r"keys\.yaml"):
        Subject(path)


def test_changes_are_taken_and_told(subject: Subject):
    subject.path.write_text(text("b", "c"))
    subject.keys.look()
    assert subject.names() == ["b", "c"]
    subject.path.write_text(text("b", "c", more="    priority: 5\n"))
    subject.keys.look()
    assert subject.told() == [
        "API keys: 2 keys in force; new: c; revoked: a",
        "API keys: 2 keys in force; changed: b, c",
    ]


def test_what_changes_no_key_is_not_told(subject: Subject):
    subject.path.write_text("# a comment\n" + text("a", "b"))
    subject.keys.look()
    subject.keys.look()
    assert (len(subject.tables), subject.told()) == (1, [])


def test_a_file_that_was_left_alone_is_not_read_again(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    os.utime(subject.path, (1_000_000_000, 1_000_000_000))
    subject.keys.look()
    monkeypatch.setattr("shoal.node.keys.read_bytes", lambda _: pytest.fail("read"))
    subject.keys.look()


def test_an_edit_in_the_same_instant_and_of_the_same_size_is_seen(subject: Subject):
    subject.keys.look()
    was = subject.path.stat()
    subject.path.write_text(text("a", "c"))
    os.utime(subject.path, ns=(was.st_atime_ns, was.st_mtime_ns))
    subject.keys.look()
    assert subject.names() == ["a", "c"]


@pytest.mark.parametrize("how", ["broken", "gone"])
def test_what_is_broken_changes_nothing_and_is_told_once_until_it_is_right_again(subject: Subject, how: str):
    if how == "broken":
        subject.path.write_text(text("a").replace("name", "nmae"))
    else:
        subject.path.unlink()
    for _ in range(3):
        subject.keys.look()
    assert len(subject.tables) == 1
    (event,) = subject.told()
    assert event.startswith(f"API keys: the former ones stay in force: {subject.path}")
    subject.path.write_text(text("a", "b"))
    subject.keys.look()
    subject.keys.look()
    assert subject.told()[1:] == [f"API keys: {subject.path} is right again, 2 keys in force"]
    subject.path.write_text(text("a"))
    subject.keys.look()
    assert subject.names() == ["a"]


def test_a_key_keeps_its_place_and_a_new_one_gets_full_buckets(subject: Subject):
    before = {k.name: k.slot for k in subject.tables[-1].keys}
    for slot in range(MAX_KEYS):
        subject.cells.requests_full[slot] = 7
    subject.path.write_text(text("c", "b"))
    subject.keys.look()
    after = {k.name: k.slot for k in subject.tables[-1].keys}
    assert after["b"] == before["b"]
    assert subject.cells.requests_full[after["b"]] == 7
    assert subject.cells.requests_full[after["c"]] == 0
    assert after["c"] not in before.values()


def test_places_are_used_again_as_late_as_possible():
    slots = KeySlots()
    first = slots.assign(["x"])["x"]
    seen = [slots.assign([f"k{n}"])[f"k{n}"] for n in range(MAX_KEYS)]
    assert first not in seen[:-1]
    assert len(slots.assign([f"k{n}" for n in range(MAX_KEYS)])) == MAX_KEYS


def test_other_settings_are_taken_and_refused_as_a_whole(subject: Subject, tmp_path: Path):
    with pytest.raises(Exception, match="no such file"):
        subject.keys.configure(Keys(file=str(tmp_path / "other.yaml"), api_keys=["k" * 16]))
    assert len(subject.tables) == 1
    subject.keys.configure(Keys(api_keys=["k" * 16]))
    assert subject.names() == ["api_keys[0]"]
    subject.keys.configure(Keys())
    assert subject.tables[-1] is None
    subject.path.write_text(text("c"))
    subject.keys.look()
    assert subject.tables[-1] is None
