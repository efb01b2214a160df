"""Where engines run, and which of them come and go."""

from collections.abc import Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from shoal.node.allotment import Allotted, Seat
from shoal.substrate import plan
from shoal.substrate.plan import (
    EngineNow,
    Group,
    RayNode,
    as_many_as_fit,
    bound,
    floating,
    home_of,
    model_of,
    port_of,
    surplus,
    versions_problem,
)

A, B, C = "a" * 56, "b" * 56, "c" * 56
NAMES = {A: "a:1", B: "b:1", C: "c:1"}


def seats(
    groups: list[Group],
    going: Collection[str],
    before: Mapping[str, Allotted],
    names: Mapping[str, str] = NAMES,
) -> dict[str, Allotted]:
    return plan.seats(groups, going, before, names)


def test_names_of_replicas() -> None:
    assert [model_of(r) for r in ("m/0", "org/m/12", f"org/m@{A}/3", "m@v1/0")] == [
        "m",
        "org/m",
        "org/m",
        "m@v1",
    ]
    assert [home_of(r) for r in ("m/0", f"org/m@{A}/3", "m@v1/0")] == ["", A, ""]


def test_replicas_that_are_missing_get_free_numbers() -> None:
    assert floating("m", 3, {"m/1", "n/0"}, ()) == ["m/0", "m/2"]
    assert floating("m", 2, {"m/0", "m/1"}, {"m/0"}) == ["m/2"]  # the one that goes does not count
    assert floating("m", 1, {"m/0", "m/1"}, ()) == []


def test_each_node_has_its_own_where_no_number_is_given() -> None:
    assert bound("m", 2, [RayNode(id=A, address="x")]) == {f"m@{A}/0": A, f"m@{A}/1": A}


def test_those_go_first_that_are_missed_least() -> None:
    groups = [Group(replica=f"m/{i}", nodes=(node,)) for i, node in enumerate((A, A, "", B))] + [
        Group(replica="n/0", nodes=(A,))
    ]
    engines = {
        "m/0": EngineNow(id="m-0", model="m", state="ready", running=5),
        "m/1": EngineNow(id="m-1", model="m", state="starting"),
        "m/3": EngineNow(id="m-0", model="m", state="ready", running=1),
    }
    assert surplus("m", 0, groups, (), engines) == ["m/2", "m/1", "m/3", "m/0"]
    assert surplus("m", 3, groups, (), engines) == ["m/2"]
    assert surplus("m", 3, groups, {"m/2"}, engines) == []


def test_an_engine_keeps_its_seat_and_a_new_one_gets_a_free_number() -> None:
    before: dict[str, Allotted] = {A: {"m": {1: Seat("m/0", (3,))}}}
    groups = [Group(replica="m/0", nodes=(A,), gpus=((3,),)), Group(replica="m/1", nodes=(A,), gpus=((0,),))]
    assert seats(groups, (), before) == {A: {"m": {1: Seat("m/0", (3,)), 0: Seat("m/1", (0,))}}}


def test_the_number_of_one_that_stops_is_not_taken_yet() -> None:
    before: dict[str, Allotted] = {A: {"m": {0: Seat("m/0")}}}
    groups = [Group(replica="m/0", nodes=(A,)), Group(replica="m/1", nodes=(A,))]
    assert seats(groups, {"m/0"}, before) == {A: {"m": {1: Seat("m/1")}}}


def test_nothing_runs_before_its_node_and_its_gpus_are_known() -> None:
    assert seats([Group(replica="m/0"), Group(replica="m/1", nodes=(A,), gpus=None)], (), {}) == {}


def test_what_runs_goes_on_while_ray_does_not_say_which_gpus_it_has() -> None:
    before: dict[str, Allotted] = {A: {"m": {0: Seat("m/0", (2,))}}}
    assert seats([Group(replica="m/0", nodes=(A,), gpus=None)], (), before) == before


def test_what_has_moved_to_another_node_is_new_there() -> None:
    before: dict[str, Allotted] = {A: {"m": {5: Seat("m/0")}}}
    assert seats([Group(replica="m/0", nodes=(B,))], (), before) == {B: {"m": {0: Seat("m/0")}}}


@given(
    st.dictionaries(st.sampled_from([f"m/{i}" for i in range(8)]), st.sampled_from([A, B, ""])),
    st.sets(st.sampled_from([f"m/{i}" for i in range(8)])),
)
def test_seats_stay_when_they_are_worked_out_again(placed: dict[str, str], going: set[str]) -> None:
    groups = [Group(replica=r, nodes=(n,)) for r, n in placed.items()]
    first = seats(groups, (), {})
    again = seats(groups, going, first)
    for node, models in again.items():
        for model, mine in models.items():
            for number, seat in mine.items():
                assert first[node][model][number] == seat
    seated = [s.replica for models in again.values() for mine in models.values() for s in mine.values()]
    assert sorted(seated) == sorted(r for r, n in placed.items() if n and r not in going)


def test_ports_of_nodes_on_one_address() -> None:
    assert port_of("10.0.0.1", 8000, {"10.0.0.2:8000"}, []) == 8000
    assert port_of("10.0.0.1", 8000, {"10.0.0.1:8000", "10.0.0.1:8001"}, [(8002, 8005)]) == 8006


def test_versions_must_be_the_same() -> None:
    mine = {"ray": "2.60.0", "python": "3.11.7", "shoal": "0.1.0"}
    assert versions_problem(mine, mine | {"python": "3.11.9"}) is None
    for what, other, words in (
        ("ray", "2.61.0", "Ray 2.61.0"),
        ("python", "3.12.1", "Python 3.12"),
        ("shoal", "0.2", "0.2"),
    ):
        problem = versions_problem(mine, mine | {what: other})
        assert problem is not None and words in problem


def across(*nodes: str, replica: str = "m/3", gpus: tuple[tuple[int, ...], ...] | None = None) -> Group:
    return Group(replica=replica, nodes=nodes, gpus=gpus if gpus is not None else ((),) * len(nodes))


PAIR: dict[str, Allotted] = {
    A: {"m": {3: Seat("m/3", (), ("a:1", "b:1"), 0)}},
    B: {"m": {3: Seat("m/3", (), ("a:1", "b:1"), 1)}},
}


def test_an_engine_across_nodes_has_one_number_and_each_node_knows_the_others() -> None:
    assert seats([across(A, B)], (), {}) == PAIR
    on_gpus = seats([across(B, A, gpus=((1,), (0,)))], (), {})
    assert on_gpus[B]["m"][3] == Seat("m/3", (1,), ("b:1", "a:1"), 0)
    assert on_gpus[A]["m"][3] == Seat("m/3", (0,), ("b:1", "a:1"), 1)
    assert seats([across(A, B)], {"m/3"}, PAIR) == {}


def test_no_part_begins_before_there_is_room_for_all_and_all_are_known() -> None:
    assert seats([across("", "")], (), {}) == {}
    assert seats([across(A, "")], (), {}) == {}
    assert seats([across(A, B)], (), {}, {A: "a:1"}) == {}
    assert seats([Group(replica="m/3", nodes=(A, B), gpus=None)], (), {}) == {}


def test_what_is_left_of_one_that_lost_a_node_stays_until_another_has_its_place() -> None:
    left = {A: PAIR[A]}
    assert seats([across(A, "")], (), left) == left
    assert seats([across(A, C)], (), left, {A: "a:1"}) == left  # the new one has no name yet
    assert seats([across(A, C)], (), left) == {
        A: {"m": {3: Seat("m/3", (), ("a:1", "c:1"), 0)}},
        C: {"m": {3: Seat("m/3", (), ("a:1", "c:1"), 1)}},
    }


def test_it_waits_for_the_number_where_another_one_still_has_it() -> None:
    before: dict[str, Allotted] = {B: {"m": {3: Seat("m/0")}}}
    assert seats([across(A, B)], (), before) == {}


def test_engines_across_nodes_where_no_number_is_given() -> None:
    assert [as_many_as_fit(1, 2, nodes) for nodes in (1, 2, 3, 4)] == [1, 1, 1, 2]
    assert as_many_as_fit(2, 2, 4) == 4


def test_one_that_has_lost_a_node_is_missed_least() -> None:
    ready = EngineNow(id="m-1", model="m", state="ready")
    groups = [across(A, B, replica="m/0"), across(C, "", replica="m/1")]
    assert surplus("m", 1, groups, (), {"m/1": ready}) == ["m/1"]
