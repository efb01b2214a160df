from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal.cluster.changes import disagreements, report_changes
from shoal.cluster.view import EngineReport, EngineState, NodeReport

ENGINE = EngineReport(id="m-0", model="m", kind="vllm", state=EngineState.READY, host="10.0.0.7", port=20000)
REPORT = NodeReport(name="b:1", version="1", config_hash="aaaa", engines=(ENGINE,))


def with_engine(**changed: Any) -> NodeReport:
    return msgspec.structs.replace(REPORT, engines=(msgspec.structs.replace(ENGINE, **changed),))


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (
            with_engine(state=EngineState.WAITING, detail="exited with code 1"),
            "engine b:1/m-0 is waiting (was ready): exited with code 1",
        ),
        (with_engine(port=20001), "engine b:1/m-0 is at 10.0.0.7:20001 now"),
        (with_engine(served=("m", "lora")), "engine b:1/m-0 serves m, lora now"),
        (with_engine(weight=2.5), "engine b:1/m-0 was reconfigured: vllm, model m, weight 2.5"),
        (with_engine(standby=True), "engine b:1/m-0 gets no new requests: it is kept as a spare"),
        (msgspec.structs.replace(REPORT, covers="c:1"), "node b:1 stands in for c:1 now"),
        (with_engine(id="m-1"), "engine b:1/m-1 is there, ready|engine b:1/m-0 is gone"),
        (msgspec.structs.replace(REPORT, draining=True), "node b:1 drains: it takes no new work"),
        (msgspec.structs.replace(REPORT, role="standby"), "node b:1 has the role standby now (was serve)"),
    ],
)
def test_what_matters_is_told(new: NodeReport, sentence: str) -> None:
    assert "|".join(report_changes(REPORT, new)) == sentence


def test_the_end_of_a_takeover_is_told() -> None:
    spare = with_engine(standby=True)
    covering = msgspec.structs.replace(REPORT, covers="c:1")
    assert report_changes(spare, covering) == [
        "node b:1 stands in for c:1 now",
        "engine b:1/m-0 gets requests now",
    ]
    assert report_changes(covering, spare)[0] == "node b:1 does not stand in for c:1 any more"


@pytest.mark.parametrize(
    "new",
    [
        REPORT,
        with_engine(running=9, waiting=3, kv_usage=0.5, since=12.0, detail="still fine"),
        msgspec.structs.replace(REPORT, in_flight={"b:1/m-0": 4}, incarnation=7),
    ],
)
def test_load_is_no_change(new: NodeReport) -> None:
    assert report_changes(REPORT, new) == []


def test_members_that_differ_in_configuration_or_version_disagree() -> None:
    mine = NodeReport(name="a:1", version="1", config_hash="bbbb")
    configuration, version = disagreements(mine, msgspec.structs.replace(REPORT, version="2"))
    assert configuration == (
        "configuration differs: b:1 has aaaa, this node bbbb: compare `shoal config show` on both"
    )
    assert version == "versions differ: b:1 runs Shoal 2, this node 1"
    assert disagreements(msgspec.structs.replace(mine, config_hash=""), REPORT) == []
    assert disagreements(msgspec.structs.replace(mine, config_hash="aaaa"), REPORT) == []
