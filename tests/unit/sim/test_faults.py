from __future__ import annotations

import pytest

from shoal.sim.faults import KINDS, Fault, FaultBoard, FaultError


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_understood_with_its_defaults(kind: str) -> None:
    fault = Fault.parse({"kind": kind})
    assert fault.as_dict()["kind"] == kind
    assert Fault.parse(fault.as_dict()) == fault


def test_fields_are_read() -> None:
    fault = Fault.parse(
        {"kind": "status", "status": 429, "count": 3, "retry_after": 2, "message": "slow down"}
    )
    assert (fault.status, fault.count, fault.retry_after, fault.message) == (429, 3, 2, "slow down")
    fault = Fault.parse({"kind": "cut", "after_tokens": 5, "how": "eof", "count": None})
    assert (fault.after_tokens, fault.how, fault.count) == (5, "eof", None)
    fault = Fault.parse({"kind": "hang", "health": False, "seconds": 0.5})
    assert (fault.health, fault.seconds) == (False, 0.5)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ([], "JSON object"),
        ({}, "unknown kind"),
        ({"kind": "explode"}, "one of crash, exit, core"),
        ({"kind": 5}, "unknown kind"),
        ({"kind": "crash", "factor": 2}, "takes after_tokens, after_seconds"),
        ({"kind": "clear", "count": 1}, "takes no fields"),
        ({"kind": "slow", "factor": "much"}, "factor must be a number"),
        ({"kind": "slow", "factor": -1}, "factor must be at least 0"),
        ({"kind": "exit", "code": 1.5}, "code must be a whole number"),
        ({"kind": "exit", "code": 256}, "code must be 0 to 255"),
        ({"kind": "status", "status": 200}, "status must be 400 to 599"),
        ({"kind": "status", "message": 1}, "message must be a string"),
        ({"kind": "cut", "count": 0}, "count must be at least 1"),
        ({"kind": "cut", "how": "gently"}, "how must be one of reset, eof, stall"),
        ({"kind": "hang", "health": 1}, "health must be true or false"),
        ({"kind": "hang", "after_seconds": True}, "after_seconds must be a number"),
    ],
)
def test_nonsense_is_refused_with_what_would_be_right(wrong: object, hint: str) -> None:
    with pytest.raises(FaultError, match=hint):
        Fault.parse(wrong)


def test_a_fault_per_request_is_used_up() -> None:
    board = FaultBoard()
    board.add(Fault.parse({"kind": "cut", "count": 2}))
    board.add(Fault.parse({"kind": "cut", "how": "eof"}))
    used = [board.use("cut") for _ in range(4)]
    assert [fault and fault.how for fault in used] == ["reset", "reset", "eof", None]
    assert board.use("status") is None


def test_a_fault_without_count_lasts_until_cleared() -> None:
    board = FaultBoard()
    board.add(Fault.parse({"kind": "status", "count": None}))
    assert all(board.use("status") for _ in range(100))
    assert [fault.kind for fault in board.clear()] == ["status"]
    assert board.use("status") is None


def test_a_new_slowness_takes_the_place_of_the_old_one() -> None:
    board = FaultBoard()
    old = Fault.parse({"kind": "slow", "factor": 2})
    board.add(old)
    board.add(Fault.parse({"kind": "slow", "factor": 3}))
    assert [fault["factor"] for fault in board.as_list()] == [3]
    assert not board.remove(old)
