from pathlib import Path

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.engine.gpu import Gpu
from shoal.engine.spec import EngineSpec
from shoal.node.duty import Duty
from shoal.node.errors import StartError
from support.configs import config

A, S = "127.0.0.1:1", "127.0.0.1:3"
GPUS = [Gpu(index=i, uuid=f"GPU-{i}", name="test", total=None, free=None) for i in range(2)]


def duty(
    tmp_path: Path, *, node: int = 2, kind: str = "warm", models: str = "", gpus: int = 0, port: int = 1
) -> Duty:
    """Return what a node of a cluster of two serving nodes, with a model each, and a standby has to do."""
    models = models or (
        f'{{path: a, engine: sim, nodes: ["127.0.0.1:{port}"]}}, '
        '{path: b, engine: sim, nodes: ["127.0.0.1:2"], type: small}'
    )
    c = config(f"""
        nodes:
          - {{host: 127.0.0.1, port: {port}}}
          - {{host: 127.0.0.1, port: 2}}
          - {{host: 127.0.0.1, port: 3, role: standby, standby: {kind}}}
        models: [{models}]
        state_dir: {tmp_path}
    """)
    c.state_dir_of(S).mkdir(exist_ok=True)
    return Duty(c, c.nodes[node], GPUS[:gpus], "127.0.0.1")


def view(state: MemberState) -> View:
    ready = (EngineReport(id="a-0", model="a", kind="sim", state=EngineState.READY, host="h"),)
    member = Member(name=A, state=state, report=NodeReport(name=A, version="1", engines=ready))
    return View(me=S, members=(member,))


def take_over(standby: Duty) -> str | None:
    assert standby.review(view(MemberState.DEAD), {}, 0.0) is None
    return standby.review(view(MemberState.DEAD), {}, 5.0)


def give_back(standby: Duty) -> str | None:
    assert standby.review(view(MemberState.ALIVE), {}, 10.0) is None
    return standby.review(view(MemberState.ALIVE), {}, 40.0)


def test_a_serving_node_always_runs_its_own_engines(tmp_path: Path):
    serving = duty(tmp_path, node=0)
    assert (set(serving.wanted), serving.covers, serving.most_engines) == ({"a-0"}, "", 1)
    assert serving.review(view(MemberState.DEAD), {}, 1e6) is None
    assert serving.resume(adopted=True) is None


def test_a_warm_standby_runs_nothing_then_what_the_lost_node_ran_then_nothing(tmp_path: Path):
    standby = duty(tmp_path, gpus=2)
    assert (standby.wanted, standby.most_engines) == ({}, 2)
    assert "takes over for 127.0.0.1:1" in str(take_over(standby))
    assert [(s.id, s.gpus) for s in standby.specs.values()] == [("a-0", (0, 1))]
    assert standby.wanted["a-0"].fingerprint == standby.specs["a-0"].fingerprint()
    assert "gives back to 127.0.0.1:1" in str(give_back(standby))
    assert standby.wanted == {}


def test_a_hot_standby_runs_everything_always_and_only_marks_what_gets_requests(tmp_path: Path):
    standby = duty(tmp_path, kind="hot")
    reports = [
        EngineReport(id=f"{m}-0", model=m, kind="sim", state=EngineState.READY, host="h") for m in "ab"
    ]

    def spares() -> list[str]:
        return [r.id for r in standby.marked(reports) if r.standby]

    always = standby.wanted
    assert (set(always), spares()) == ({"a-0", "b-0"}, ["a-0", "b-0"])
    take_over(standby)
    assert (standby.wanted, spares()) == (always, ["b-0"])
    give_back(standby)
    assert (standby.wanted, spares()) == (always, ["a-0", "b-0"])
    assert not any(r.standby for r in duty(tmp_path).marked(reports)), "a warm one keeps no spares"


def test_the_next_process_of_a_standby_goes_on_until_the_takeover_is_over(tmp_path: Path):
    take_over(duty(tmp_path))
    again = duty(tmp_path)
    assert again.covers == ""
    assert "goes on standing in for 127.0.0.1:1" in str(again.resume(adopted=True))
    assert set(again.wanted) == {"a-0"}
    give_back(again)
    assert duty(tmp_path).resume(adopted=True) is None


@pytest.mark.parametrize(
    "how", ["stopped on purpose", "its engines are gone", "not in the file any more", "not readable"]
)
def test_there_is_nothing_to_go_on_with(tmp_path: Path, how: str):
    standby = duty(tmp_path)
    take_over(standby)
    (note,) = (p for p in tmp_path.rglob("*") if p.is_file())
    if how == "stopped on purpose":
        standby.forget()
    elif how == "its engines are gone":
        assert duty(tmp_path).resume(adopted=False) is None
    elif how == "not readable":
        note.write_bytes(b"\xff\xfe")
    assert duty(tmp_path, port=9 if how == "not in the file any more" else 1).resume(adopted=True) is None


def test_a_standby_that_could_not_hold_the_engines_of_a_node_does_not_start_and_says_for_which(
    tmp_path: Path,
):
    greedy = "{path: a, engine: sim, nodes: ['127.0.0.1:2'], gpus_per_engine: 2}"
    assert duty(tmp_path, models=greedy, gpus=2).most_engines == 1
    with pytest.raises(
        StartError, match=r"127\.0\.0\.1:3 could not take over for 127\.0\.0\.1:2: .* asks for 2"
    ):
        duty(tmp_path, models=greedy, gpus=1)


def test_files_that_a_takeover_will_need_must_be_there_at_the_start(tmp_path: Path):
    with pytest.raises(StartError, match=r"could not take over for .*/no/such/model does not exist"):
        duty(tmp_path, models="{path: /no/such/model}")


def test_what_is_wanted_is_worked_out_once_for_each_set_of_engines(tmp_path: Path, monkeypatch):
    made = []
    original = EngineSpec.fingerprint
    monkeypatch.setattr(EngineSpec, "fingerprint", lambda spec: made.append(spec.id) or original(spec))
    standby = duty(tmp_path, kind="warm")
    take_over(standby)
    for _ in range(20):
        assert set(standby.wanted) == {"a-0"}
    assert made == ["a-0"]
    give_back(standby)
    assert standby.wanted == {}
