"""Files of keys: read as strictly as the configuration, edited without losing anything."""

from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shoal.config import ConfigError, load
from shoal.config.keys_file import add_key, keys_in, read_keys, remove_key

HASH, OTHER = "a" * 64, "b" * 64
GOOD = f"""\
# Who may use the cluster.
keys:
  - name: anna   # on leave until May
    hash: sha256:{HASH}
    models: [one, "two"]
    requests_per_minute: 60
    expires: 2027-01-31
"""


def wrong(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        keys_in(text.encode(), "keys.yaml")
    return str(caught.value).splitlines()


def test_everything_a_key_can_have():
    (entry,) = keys_in(
        f"keys: [{{name: a, hash: '{HASH.upper()}', role: admin, models: [m], requests_per_minute: 1, "
        "tokens_per_minute: 2, max_concurrent: 3, priority: -4, expires: '2027-01-31T12:00:00+02:00'}]".encode(),
        "f",
    )
    assert (entry.hash, entry.role, entry.models) == (HASH, "admin", ("m",))
    assert (entry.requests_per_minute, entry.tokens_per_minute, entry.max_concurrent, entry.priority) == (
        1,
        2,
        3,
        -4,
    )
    assert entry.expires == datetime(2027, 1, 31, 10, tzinfo=UTC)


def test_json_is_as_good_and_defaults_are_no_limits():
    (entry,) = keys_in(json.dumps({"keys": [{"name": "a", "hash": HASH}]}).encode(), "f")
    assert entry.role == "user"
    assert entry.models is entry.requests_per_minute is entry.expires is None


@pytest.mark.parametrize(
    ("line", "place", "says"),
    [
        ("name: anna   # on leave until May", "3:", None),
        ("    nmae: x", "8:5", "did you mean `name`?"),
        ("    role: boss", "8:11", "it must be user or admin"),
        ("    priority: high", "8:15", "a whole number from -1000000 to 1000000"),
        ("    tokens_per_minute: 0", "8:24", "a whole number from 1 to 1000000000"),
        ("    tokens_per_minute: 1.5", "8:24", "a whole number"),
        ("    max_concurrent: '3'", "8:21", "remove the quotes"),
        ("    models: all", "8:", "given twice"),
        ("  - name: bert", "8:", "`hash` is missing"),
        (f"  - name: anna\n    hash: {OTHER}", "8:11", "keys[1] and keys[0] have the same name"),
        (f"  - name: bert\n    hash: {HASH}", "9:11", "keys[1] and keys[0] have the same hash"),
        ("  - name: bert\n    hash: sk-shoal-secret", "9:11", "it must be the SHA-256 of a key"),
        (f"  - name: b b\n    hash: {OTHER}", "8:11", "it does not have the form it needs"),
        (f"  - name: b\n    hash: {OTHER}\n    expires: tomorrow", "10:14", "it must be a date, 2027-01-31"),
        (f"  - name: b\n    hash: {OTHER}\n    models: [x, x]", "10:13", "x is there twice"),
        ("\tx", "8:", "tab"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(line: str, place: str, says: str | None):
    if says is None:
        assert len(keys_in(GOOD.encode(), "f")) == 1
        return
    problems = wrong(f"{GOOD}{line}\n")
    assert any(p.startswith(f"keys.yaml:{place}") and says in p for p in problems), problems


def test_all_problems_are_told_at_once():
    assert len(wrong(GOOD + "    role: boss\n    priority: x\n    y: 1\n")) == 3


@pytest.mark.parametrize("text", ["", "keys", "- name: a", "[]", "5", "\xff"])
def test_what_is_no_file_of_keys_is_told(text: str):
    with pytest.raises(ConfigError, match=r"keys\.yaml:1:1: .*"):
        keys_in(text.encode("latin-1"), "keys.yaml")


def test_a_key_is_added_and_removed_and_all_else_stays(tmp_path: Path):
    path = tmp_path / "keys.yaml"
    path.write_text(GOOD)
    path.chmod(0o640)
    add_key(path, {"name": "bert", "hash": OTHER})
    assert path.read_text() == f"{GOOD}  - name: bert\n    hash: {OTHER}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert remove_key(path, "bert")
    assert path.read_text() == GOOD
    assert not remove_key(path, "bert")
    assert remove_key(path, "anna")
    assert read_keys(path) == ()
    assert list(tmp_path.iterdir()) == [path], "nothing is left lying about"


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path):
    path = tmp_path / "sub" / "keys.yaml"
    add_key(path, {"name": "anna", "hash": HASH})
    assert path.read_text() == f"keys:\n  - name: anna\n    hash: {HASH}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_json_file_stays_json(tmp_path: Path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"name": "anna", "hash": HASH}]}))
    add_key(path, {"name": "bert", "hash": OTHER, "models": ["m"]})
    assert [k["name"] for k in json.loads(path.read_text())["keys"]] == ["anna", "bert"]


def test_a_link_stays_a_link(tmp_path: Path):
    real, link = tmp_path / "real.yaml", tmp_path / "keys.yaml"
    real.write_text(GOOD)
    link.symlink_to(real)
    add_key(link, {"name": "bert", "hash": OTHER})
    assert link.is_symlink()
    assert len(read_keys(real)) == 2


@pytest.mark.parametrize("entry", [{"name": "anna", "hash": OTHER}, {"name": "b b", "hash": OTHER}])
def test_what_would_make_the_file_wrong_is_refused(tmp_path: Path, entry: dict[str, str]):
    path = tmp_path / "keys.yaml"
    path.write_text(GOOD)
    with pytest.raises(ConfigError):
        add_key(path, entry)
    assert path.read_text() == GOOD
    path.write_text("keys: 5")
    with pytest.raises(ConfigError):
        remove_key(path, "anna")


def test_two_who_edit_at_once_lose_nothing(tmp_path: Path):
    path = tmp_path / "keys.yaml"
    threads = [
        threading.Thread(target=add_key, args=(path, {"name": f"k{n}", "hash": f"{n:064x}"}))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in read_keys(path)} == {f"k{n}" for n in range(12)}


def test_a_file_may_have_thousands_of_keys():
    entry = "  - {name: k%d, hash: 'sha256:%064x', role: user, models: [a, b], priority: 1, expires: 2030-01-01}\n"
    text = "keys:\n" + "".join(entry % (n, n) for n in range(3000))
    assert len(keys_in(text.encode(), "f")) == 3000


BASE = "nodes: [{host: 127.0.0.1}]\nmodel: {path: m}\n"


def test_keys_come_from_the_environment_where_the_file_has_none(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text(BASE)
    env = {"HOME": "/h", "SHOAL_API_KEYS": "k" * 16 + ", " + "l" * 16 + ",", "SHOAL_ADMIN_KEYS": "m" * 16}
    loaded = load(path, env)
    keys = loaded.config.gateway.keys
    assert (keys.api_keys, keys.admin_keys, keys.wanted) == (("k" * 16, "l" * 16), ("m" * 16,), True)
    shown = {s.name: s for s in loaded.settings()}
    assert shown["gateway.keys.api_keys"].value == "(hidden)"
    assert str(shown["gateway.keys.api_keys"].source) == "environment variable SHOAL_API_KEYS"
    path.write_text(BASE + "gateway: {keys: {api_keys: []}}\n")
    assert load(path, env).config.gateway.keys.api_keys == ()
    path.write_text(BASE)
    assert not load(path, {"HOME": "/h"}).config.gateway.keys.wanted
    with pytest.raises(ConfigError, match="hidden"):
        load(path, {"HOME": "/h", "SHOAL_API_KEYS": "short"})


def test_the_file_of_keys_is_checked_before_a_start_and_not_to_load(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text(BASE + "gateway: {keys: {file: keys.yaml}}\n")
    loaded = load(path, {"HOME": "/h"})
    assert loaded.config.gateway.keys.file == tmp_path / "keys.yaml"
    assert [str(p) for p in loaded.serving_problems()] == [
        f"{tmp_path / 'keys.yaml'}: there is no such file of API keys; make it with `shoal keys new NAME`"
    ]
    (tmp_path / "keys.yaml").write_text(GOOD + "    role: x\n")
    with pytest.raises(ConfigError, match=r"keys\.yaml:8:11: `keys\[0\]\.role`"):
        loaded.require_servable()
    (tmp_path / "keys.yaml").write_text(GOOD)
    loaded.require_servable()
