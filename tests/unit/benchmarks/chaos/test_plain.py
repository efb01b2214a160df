from pathlib import Path

import pytest
from benchmarks.chaos import plain
from benchmarks.chaos.cluster import ChaosError
from benchmarks.chaos.plain_faults import FAULTS
from benchmarks.chaos.plain_report import cells, markdown
from benchmarks.chaos.plain_trials import PlainTrial

MACHINE = {"cpu": "C", "cores": 2, "memory_gb": 8, "system": "S", "kernel": "6", "python": "3.11"}
DOCUMENT = {"date": "2026-01-01", "vllm": "0.32.0", "machine": MACHINE}
NOTHING = {"leader": 0, "follower": 0, "memory": 0, "segments": 0}
FAILED = PlainTrial(
    unhealthy=0.6,
    failed=0.4,
    new_failed=1.2,
    leader=2.4,
    leader_code=0,
    follower=7.0,
    follower_code=0,
    left=NOTHING,
)


def test_times_are_medians_and_exits_have_their_status() -> None:
    slower = PlainTrial(
        unhealthy=0.8, failed=0.6, leader=2.6, leader_code=1, left=NOTHING | {"segments": 2, "follower": 3}
    )
    assert cells("follower's worker killed", [FAILED, slower]) == [
        *(
            "follower's worker killed",
            "2",
            "0.70",
            "0.50",
            "1.20 (1 of 2)",
            "2.50 (0, 1)",
            "7.00 (1 of 2) (0)",
        ),
        "3 of the follower's processes, 2 in `/dev/shm`",
    ]


def test_what_does_not_happen_is_said_with_the_time_one_looked() -> None:
    stopped = PlainTrial(left=NOTHING | {"leader": 2, "memory": 3 << 20})
    assert cells("follower stopped", [stopped])[2:] == [
        *(["not in 340"] * 5),
        "2 of the leader's processes, 3 MiB",
    ]
    onward = PlainTrial(tokens=700, follower=0.1, follower_code=-9, left=NOTHING)
    assert cells("follower's main process killed", [onward])[2:] == [
        *("not in 30", "goes on for 30", "not in 30", "not in 30", "killed", "nothing")
    ]
    assert cells("follower killed, idle", [FAILED])[2:5] == ["0.60", "-", "1.20"]


def test_runs_are_put_together_in_the_order_of_the_faults(tmp_path: Path) -> None:
    for number, name in enumerate(("leader killed", "follower killed", "leader killed")):
        plain.save(tmp_path / f"{number}.json", {name: [FAILED]}, DOCUMENT)
    found, document = plain.load(sorted(tmp_path.iterdir()))
    assert {name: len(trials) for name, trials in found.items()} == {"follower killed": 1, "leader killed": 2}
    assert list(found) == ["follower killed", "leader killed"]
    page = markdown(found, document)
    assert "Measured 2026-01-01: vLLM 0.32.0 on CPUs" in page
    assert "\n| leader killed | 2 | 0.60 | 0.40 |" in page
    assert "- **follower killed**: `kill -9` of all processes" in page


def test_faults_are_chosen_by_the_beginnings_of_their_names() -> None:
    assert plain.chosen(None) == list(FAULTS)
    assert [fault.name for fault in plain.chosen("leader, follower s")] == [
        *("leader killed", "leader's worker killed", "follower stopped")
    ]
    with pytest.raises(ChaosError, match="no fault 'engine' of a group of plain vLLM; there are"):
        plain.chosen("engine")
