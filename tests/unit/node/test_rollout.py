import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shoal.cluster.view import EngineReport, EngineState
from shoal.config import Config
from shoal.config.shared import shared, with_local
from shoal.node import rollout as rollout_module
from shoal.node.duty import Duty
from shoal.node.events import Events
from shoal.node.orders import RefusedError
from shoal.node.rollout import ACCEPT, PREPARE, RELEASE, STATE, STEP, TURN, UNDO, Rollout
from support.configs import config

TEXT = """
    nodes: [{host: 127.0.0.1, port: 8001}, {host: 127.0.0.1, port: 8002}]
    models: [{name: m, path: m, engine: sim, engines_per_node: 2}, {name: old, path: old, engine: sim}]
    state_dir: STATE
"""
NEW = TEXT.replace("engines_per_node: 2", "engines_per_node: 2, args: {salt: x}").replace(
    "name: old, path: old", "name: new, path: new"
)


class Files:
    """The files of no model."""

    def want(self, *_: object) -> None:
        pass

    def held(self, _: str) -> None:
        return None


class Part:
    """A node's part, and what it was told to run."""

    def __init__(self, directory: Path, text: str = TEXT, index: int = 0) -> None:
        self.config = config(text.replace("STATE", str(directory)))
        node = self.config.nodes[index]
        self.duty = Duty(self.config, node, (), "127.0.0.1")
        self.events = Events()
        self.rollout = Rollout(
            node,
            self.duty,
            Files(),  # type: ignore[arg-type]
            configured=self.configured,
            current=lambda: self.config,
            events=self.events,
            on_change=lambda: None,
        )

    def configured(self, document: Mapping[str, Any]) -> Config:
        return with_local(document, self.config)

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        return asyncio.run(self.rollout.handlers()[method, path](arguments))  # type: ignore[arg-type]

    def prepare(self, text: str = NEW) -> Any:
        document = shared(config(text.replace("STATE", "/x")))
        return self.ask("POST", PREPARE, document=document, turn="t", by="n")

    def salts(self) -> dict[str, bool]:
        return {i: "--salt" in spec.args for i, spec in self.duty.specs.items()}


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part(tmp_path)


def test_step_by_step_and_nothing_stays_that_is_undone(part: Part):
    part.ask("POST", TURN, turn="t", by="n")
    told = part.prepare()
    assert [(s["engine"], s["replaces"]) for s in told["steps"]] == [
        ("new-0", False),
        ("m-0", True),
        ("m-1", True),
    ]
    assert (told["engines"], told["removed"]) == ({"m": 2, "new": 1}, ["old-0"])
    assert part.salts() == {"m-0": False, "m-1": False, "old-0": False}
    assert part.ask("GET", STATE) == {"held": {}}
    part.ask("POST", STEP, turn="t", step=0)
    part.ask("POST", STEP, turn="t", step=1)
    assert part.salts() == {"m-0": True, "m-1": False, "new-0": False, "old-0": False}
    assert part.rollout.under_way
    with pytest.raises(RefusedError, match="not the next one"):
        part.ask("POST", STEP, turn="t", step=1)
    part.ask("POST", UNDO, turn="t")
    assert part.salts() == {"m-0": False, "m-1": False, "old-0": False}
    assert not part.rollout.under_way
    assert any("goes back to the engines" in e.text for e in part.events.last())


def test_an_engine_is_out_of_rotation_until_it_is_accepted_and_a_bad_one_stays_so(part: Part):
    part.ask("POST", TURN, turn="t", by="n")
    part.prepare()
    for step in (0, 1):
        part.ask("POST", STEP, turn="t", step=step)
    prints = {i: spec.fingerprint() for i, spec in part.duty.specs.items()}
    reports = [EngineReport(id=i, model="m", kind="sim", state=EngineState.READY, host="h") for i in prints]

    def kept_out() -> set[str]:
        return {r.id for r in part.rollout.marked(reports, prints) if r.standby}

    assert kept_out() == {"new-0", "m-0"}
    part.ask("POST", ACCEPT, turn="t", engine="new-0")
    assert kept_out() == {"m-0"}
    part.ask("POST", UNDO, turn="t")
    assert kept_out() == {"m-0"}  # it still runs, and is to be replaced


def test_what_was_prepared_is_what_is_committed(part: Part):
    part.ask("POST", TURN, turn="t", by="n")
    part.prepare()
    part.ask("POST", STEP, turn="t", step=0)
    new = part.configured(shared(config(NEW.replace("STATE", "/x"))))
    duties = part.rollout.committed(new)
    assert duties is not None
    part.duty.configure(new, duties)
    assert part.salts() == {"m-0": True, "m-1": True, "new-0": False}
    part.ask("POST", RELEASE, turn="t")  # gives back the turn, and nothing else
    assert part.salts() == {"m-0": True, "m-1": True, "new-0": False}
    assert part.rollout.committed(new) is None


def test_a_turn_that_ends_takes_everything_back(part: Part, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(rollout_module.time, "monotonic", lambda: now[0])
    part.ask("POST", TURN, turn="t", by="n")
    part.prepare()
    part.ask("POST", STEP, turn="t", step=0)
    part.rollout.look()
    assert part.rollout.under_way
    now[0] += 20
    part.rollout.look()
    assert not part.rollout.under_way
    assert any("not heard any more" in e.text for e in part.events.last())
    with pytest.raises(RefusedError, match="this turn is over"):
        part.ask("POST", STEP, turn="t", step=1)


def test_what_a_node_cannot_run_is_refused_before_anything_changes(part: Part):
    part.ask("POST", TURN, turn="t", by="n")
    with pytest.raises(RefusedError, match=r"does not name node 127.0.0.1:8001"):
        part.prepare(NEW.replace("{host: 127.0.0.1, port: 8001}, ", ""))
    with pytest.raises(RefusedError, match="does not exist on this machine"):
        part.prepare(NEW.replace("path: new, engine: sim", "path: /nowhere/new"))
    with pytest.raises(RefusedError, match="this turn is over"):
        part.ask("POST", PREPARE, document=shared(part.config), turn="other", by="n")
    with pytest.raises(RefusedError, match="one at a time"):
        part.ask("POST", TURN, turn="other", by="m")
    assert part.salts() == {"m-0": False, "m-1": False, "old-0": False}


def test_a_dry_run_needs_no_turn_and_leaves_nothing(part: Part):
    told = part.ask("POST", PREPARE, document=shared(config(NEW.replace("STATE", "/x"))))
    assert len(told["steps"]) == 3
    with pytest.raises(RefusedError):
        part.ask("POST", STEP, turn="t", step=0)


@pytest.mark.parametrize(("index", "counted"), [(0, {"m": 1, "n": 1}), (1, {"n": 1})])
def test_an_engine_across_nodes_counts_once_where_it_is_led(
    tmp_path: Path, index: int, counted: dict[str, int]
):
    text = TEXT.replace("engines_per_node: 2", "type: xlarge").replace(
        "name: old, path: old", "name: n, path: n"
    )
    part = Part(tmp_path, text, index)
    told = part.ask("POST", PREPARE, document=shared(config(text.replace("STATE", "/x"))))
    assert told["engines"] == counted
