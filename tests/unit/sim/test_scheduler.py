from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.sim.cache import BlockPool
from shoal.sim.scheduler import Costs, Request, Scheduler, Step


def make(
    blocks: int = 64,
    block_size: int = 4,
    *,
    costs: Costs | None = None,
    max_num_seqs: int = 4,
    **more: object,
) -> Scheduler:
    pool = BlockPool(blocks, block_size)
    return Scheduler(pool, costs or Costs(), max_num_seqs=max_num_seqs, **more)  # type: ignore[arg-type]


def request(name: str, prompt: int | list[int] = 5, new: int = 3, priority: int = 0) -> Request:
    tokens = prompt if isinstance(prompt, list) else [hash(name) % 97 + 3] * prompt
    return Request(name, list(tokens), len(tokens), len(tokens) + new, priority=priority)


def drive(scheduler: Scheduler, check: Callable[[Step], None] = lambda step: None) -> list[str]:
    """Run until nothing is left; return the requests in the order they finished."""
    finished: list[str] = []
    for _ in range(100_000):
        step = scheduler.schedule()
        if step is None:
            return finished
        check(step)
        for done in scheduler.complete(step):
            done.tokens.append(len(done.tokens) % 50)
            if len(done.tokens) >= done.max_length:
                scheduler.finish(done)
                finished.append(done.id)
    raise AssertionError("the scheduler makes no progress")


def test_requests_run_together_and_get_a_token_a_step() -> None:
    scheduler = make()
    first, second = request("a"), request("b", 2)
    scheduler.add(first)
    scheduler.add(second)
    step = scheduler.schedule()
    assert step is not None
    assert step.work == [(first, 5), (second, 2)]
    assert step.prefill_tokens == 7
    assert scheduler.complete(step) == [first, second]
    first.tokens.append(9)
    second.tokens.append(9)
    step = scheduler.schedule()
    assert step is not None
    assert step.work == [(first, 1), (second, 1)]
    assert step.prefill_tokens == 0


def test_a_step_costs_its_prefill_its_decodes_and_its_base() -> None:
    scheduler = make(costs=Costs(prefill_us_per_token=100, decode_ms=1, decode_us_per_seq=10))
    one = request("a", 10)
    scheduler.add(one)
    step = scheduler.schedule()
    assert step is not None
    assert step.duration == pytest.approx(0.001 + 10 * 0.0001)
    scheduler.complete(step)
    one.tokens.append(1)
    step = scheduler.schedule()
    assert step is not None
    assert step.duration == pytest.approx(0.001 + 0.00001)


def test_long_prompts_are_computed_in_chunks_beside_running_requests() -> None:
    scheduler = make(max_batched_tokens=8)
    short, long = request("short", 2, 9), request("long", 20)
    scheduler.add(short)
    scheduler.add(long)
    chunks: list[int] = []
    drive(scheduler, lambda step: chunks.extend(count for req, count in step.work if req is long))
    assert chunks[:3] == [6, 7, 7]


def test_the_queue_waits_for_a_place_and_is_served_in_order() -> None:
    scheduler = make(max_num_seqs=2)
    for name in "abcde":
        scheduler.add(request(name))
    scheduler.schedule()
    assert [req.id for req in scheduler.running] == ["a", "b"]
    assert scheduler.waiting == 3
    assert drive(scheduler) == ["a", "b", "c", "d", "e"]


def test_priority_goes_before_arrival_only_under_that_policy() -> None:
    for policy, expected in (("fcfs", ["a", "b", "c"]), ("priority", ["c", "a", "b"])):
        scheduler = make(max_num_seqs=1, policy=policy)
        for name, priority in (("a", 0), ("b", 0), ("c", -1)):
            scheduler.add(request(name, priority=priority))
        assert drive(scheduler) == expected


def test_a_shared_prefix_is_not_computed_again() -> None:
    scheduler = make()
    prompt = list(range(3, 15))
    scheduler.add(request("a", prompt))
    drive(scheduler)
    again = request("b", [*prompt, 60, 61])
    scheduler.add(again)
    step = scheduler.schedule()
    assert step is not None
    assert (again.cached, step.work) == (12, [(again, 2)])
    assert (scheduler.pool.queries, scheduler.pool.hits) == (26, 12)


def test_a_prefix_is_shared_from_the_step_on_that_computes_it() -> None:
    scheduler = make()
    prompt = list(range(3, 15))
    first, second = request("a", [*prompt, 60]), request("b", [*prompt, 61])
    scheduler.add(first)
    scheduler.add(second)
    step = scheduler.schedule()
    assert step is not None
    assert step.work == [(first, 13), (second, 1)]
    assert (second.cached, step.prefill_tokens) == (12, 14)


def test_at_least_one_token_of_a_known_prompt_is_computed() -> None:
    scheduler = make()
    for name in "ab":
        known = request(name, list(range(3, 15)))
        scheduler.add(known)
        drive(scheduler)
    assert known.cached == 8


def test_an_answer_is_a_known_prefix_of_the_next_turn() -> None:
    scheduler = make()
    turn = request("a", list(range(3, 11)), new=8)
    scheduler.add(turn)
    drive(scheduler)
    following = request("b", [*turn.tokens, 70, 71])
    scheduler.add(following)
    drive(scheduler)
    assert following.cached == 12


def test_a_cache_salt_keeps_prefixes_apart() -> None:
    scheduler = make()
    for salt in (None, "x", "x"):
        salted = request("a", list(range(3, 15)))
        salted.cache_salt = salt
        scheduler.add(salted)
        drive(scheduler)
    assert scheduler.pool.hits == 8


def test_without_room_the_latest_request_gives_way_and_is_finished_later() -> None:
    scheduler = make(blocks=6)
    first, second = request("a", 8, 12), request("b", 8, 12)
    scheduler.add(first)
    scheduler.add(second)
    assert drive(scheduler) == ["a", "b"]
    assert second.preemptions >= 1
    assert first.preemptions == 0
    assert scheduler.preemptions == second.preemptions
    assert len(second.tokens) == 20


def test_an_aborted_request_leaves_at_once_wherever_it_is() -> None:
    scheduler = make(max_num_seqs=1)
    running, waiting, new = request("a"), request("b"), request("c")
    scheduler.add(running)
    scheduler.add(waiting)
    step = scheduler.schedule()
    assert step is not None
    assert scheduler.finish(running)
    assert scheduler.finish(waiting)
    assert not scheduler.finish(waiting)
    assert not scheduler.finish(new)
    assert scheduler.complete(step) == []
    assert (scheduler.waiting, scheduler.running, scheduler.pool.used) == (0, [], 0)
    assert scheduler.schedule() is None


def test_a_request_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        make(blocks=2, block_size=4).add(request("a", 5, 4))


def test_nonsense_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make(max_num_seqs=0)
    with pytest.raises(ValueError, match="unknown scheduling policy"):
        make(policy="lottery")


@given(
    requests=st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 10), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    blocks=st.integers(10, 30),
    seqs=st.integers(1, 5),
    budget=st.integers(1, 40),
    policy=st.sampled_from(["fcfs", "priority"]),
)
def test_limits_hold_and_everybody_is_served(
    requests: list[tuple[int, int, int, bool]], blocks: int, seqs: int, budget: int, policy: str
) -> None:
    scheduler = make(blocks, max_num_seqs=seqs, max_batched_tokens=budget, policy=policy)
    starts: list[str] = []

    def check(step: Step) -> None:
        starts.extend(req.id for req in step.started if not req.preemptions)
        assert len(scheduler.running) <= seqs
        assert sum(count for _, count in step.work) <= budget
        assert all(count > 0 for _, count in step.work)
        held = {block for req in scheduler.running for block in req.blocks}
        assert len(held) == scheduler.pool.used <= blocks
        for req, count in step.work:
            assert len(req.blocks) * scheduler.pool.block_size >= req.computed + count

    names = [str(number) for number in range(len(requests))]
    added = []
    for name, (prompt, new, priority, same) in zip(names, requests, strict=True):
        added.append(request("same" if same else name, prompt, new, priority))
        added[-1].id = name
        scheduler.add(added[-1])
    finished = drive(scheduler, check)
    assert sorted(finished) == sorted(names)
    assert scheduler.pool.used == 0
    assert all(len(req.tokens) == req.max_length for req in added)
    order = sorted(added, key=lambda req: req.rank) if policy == "priority" else added
    assert starts == [req.id for req in order]
