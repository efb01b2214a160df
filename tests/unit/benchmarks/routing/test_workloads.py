from __future__ import annotations

import json

import pytest
from benchmarks.routing.generated import AGENTS, MULTI_TURN, Shape, generate
from benchmarks.routing.plan import QUICK, RATES, Workloads
from benchmarks.routing.words import words
from benchmarks.routing.workload import Progress, Session, Turn, gateway_of

from shoal.sim import text


@pytest.mark.parametrize("shape", [MULTI_TURN, AGENTS])
def test_a_workload_is_as_its_shape_says(shape: Shape) -> None:
    made = generate(shape, 2000, 100.0, seed=1)
    assert 2000 <= made.requests < 2000 + shape.longest
    starts = [session.start for session in made.sessions]
    assert starts == sorted(starts)
    assert 0.6 < made.requests / starts[-1] / 100.0 < 1.7
    turns = [len(session.turns) for session in made.sessions]
    assert max(turns) <= shape.longest
    assert 0.6 * shape.turns < sum(turns) / len(turns) < 1.2 * shape.turns
    assert len({session.system for session in made.sessions}) == shape.systems
    assert len({session.name for session in made.sessions}) == len(made.sessions)


def test_equal_seeds_make_equal_workloads_and_others_share_no_text() -> None:
    one, same, other = (generate(AGENTS, 50, 100.0, seed) for seed in (1, 1, 2))
    assert one == same
    assert not {s.system for s in one.sessions} & {s.system for s in other.sessions}


@pytest.mark.parametrize("count", [0, 1, 777])
def test_words_are_as_many_tokens_as_wanted(count: int) -> None:
    assert len(text.encode(words(count, "seed"))) == count


def test_each_request_of_a_chat_begins_with_the_one_before_and_its_answer() -> None:
    progress = Progress(Session("s", 0.0, "be brief", (Turn(0, "one", 3), Turn(1, "two", 4))))
    path, body = progress.ask()
    first = json.loads(body)
    assert (path, first["max_tokens"], first["user"]) == ("/v1/chat/completions", 3, "s")
    progress.answered("yes")
    second = json.loads(progress.ask()[1])
    assert second["messages"] == [
        *first["messages"],
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "two"},
    ]
    progress.answered("no")
    assert progress.turn is None


def test_a_session_without_a_system_prompt_is_a_completion() -> None:
    path, body = Progress(Session("s", 0.0, None, (Turn(0, "text", 3),))).ask()
    assert (path, json.loads(body)["prompt"]) == ("/v1/completions", "text")


def test_requests_are_spread_over_gateways_alike_each_time() -> None:
    spread = [gateway_of(f"s{n}", 0, 3, seed=1) for n in range(300)]
    assert spread == [gateway_of(f"s{n}", 0, 3, seed=1) for n in range(300)]
    assert all(70 < spread.count(gateway) < 130 for gateway in range(3))


@pytest.mark.parametrize("name", RATES)
def test_every_workload_of_a_plan_can_be_made(name: str) -> None:
    workloads = Workloads(QUICK)
    made = workloads.make(name, 1)
    assert made is workloads.make(name, 1)
    assert made.requests >= 0.9 * QUICK.requests[name]
    faster = workloads.make(name, 1, 2.0)
    assert faster.sessions[-1].start < 0.7 * made.sessions[-1].start
