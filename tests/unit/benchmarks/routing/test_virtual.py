from __future__ import annotations

from collections.abc import Sequence

import pytest
from benchmarks.routing.engines import Hardware, quantile
from benchmarks.routing.generated import AGENTS, MULTI_TURN, generate
from benchmarks.routing.inprocess import InProcess
from benchmarks.routing.oracle import BOUND, Oracle
from benchmarks.routing.plan import Plan, Workloads
from benchmarks.routing.results import ORACLES
from benchmarks.routing.run import Run
from benchmarks.routing.virtual import Simulation, prompt_tokens
from benchmarks.routing.words import words
from benchmarks.routing.workload import Progress, Session, Turn, Workload

from shoal.routing import registry

HARDWARE = Hardware()


class Fixed:
    """Sends requests where it was told, one after the other."""

    def __init__(self, *engines: int) -> None:
        self._engines = list(engines)

    def choose(
        self, gateway: int, path: str, body: bytes, prompt: Sequence[int], now: float
    ) -> tuple[int, int]:
        return self._engines.pop(0), 0

    def began(self, gateway: int, engine: int, work: int) -> None:
        pass

    def ended(self, gateway: int, engine: int) -> None:
        pass


def conversation(turns: int = 2) -> Workload:
    made = [Turn(0.1, words(100, n), 5) for n in range(turns)]
    return Workload("one", [Session("s", 0.0, words(400, "system"), made)], 1)


def run(workload: Workload, router: object, engines: int = 2) -> Simulation:
    simulation = Simulation(workload, HARDWARE, engines)
    simulation.run(router)  # type: ignore[arg-type]
    return simulation


def test_time_to_first_token_is_what_the_hardware_takes() -> None:
    simulation = run(conversation(1), Fixed(0))
    (one,) = simulation.answered
    wanted = HARDWARE.decode_ms * 1e-3 + one.prompt * HARDWARE.prefill_us * 1e-6
    assert one.first == pytest.approx(wanted)
    assert one.end == pytest.approx(wanted + 4 * (HARDWARE.decode_ms + HARDWARE.decode_us * 1e-3) * 1e-3)


def test_the_next_turn_finds_its_beginning_on_the_same_engine_only() -> None:
    stayed, moved = run(conversation(), Fixed(0, 0)), run(conversation(), Fixed(0, 1))
    assert stayed.answered[1].cached > 500
    assert moved.answered[1].cached == 0
    assert stayed.endless_hit_rate == moved.endless_hit_rate == stayed.hit_rate > moved.hit_rate == 0


def test_the_oracle_keeps_a_conversation_where_it_is() -> None:
    simulation = Simulation(conversation(4), HARDWARE, 3)
    simulation.run(Oracle(simulation.engines))
    assert sorted(engine.pool.queries > 0 for engine in simulation.engines) == [False, False, True]


@pytest.mark.parametrize(("bound", "wanted"), [(BOUND, BOUND * 40 / 4), (None, 40)])
def test_the_oracle_fills_an_engine_with_what_it_knows_up_to_its_bound(
    bound: float | None, wanted: float
) -> None:
    system = words(4000, "system")
    first = Session("first", 0.0, system, [Turn(0.0, "hello", 5)])
    crowd = [Session(f"s{n}", 1.0, system, [Turn(0.0, "hello", 5)]) for n in range(40)]
    simulation = Simulation(Workload("crowd", [first, *crowd], 1), HARDWARE, 4)
    simulation.run(Oracle(simulation.engines, bound))
    assert simulation.balance.most == wanted


def test_a_run_has_both_oracles_and_the_policies_that_were_asked_for() -> None:
    plan = Plan({"agents": 40}, 1, (), gateways=(1,))
    made = Run(plan, Workloads(plan), lambda _: None)
    made.bounds()
    made.simulate(["session"])
    assert [name for name, _, _ in made.rows] == [*ORACLES, "shoal session"]
    assert all(row.samples[0].p90 > 0 for row in made.rows.values())
    assert 0 < made.endless["agents"] < 1


@pytest.mark.parametrize("shape", [MULTI_TURN, AGENTS])
def test_no_policy_finds_more_than_an_endless_cache_and_the_oracle_is_well_ahead_of_turns(
    shape: object,
) -> None:
    workload = generate(shape, 150, 200.0, seed=3)  # type: ignore[arg-type]
    simulation = Simulation(workload, HARDWARE, 4)
    simulation.run(Oracle(simulation.engines))
    turns = Simulation(workload, HARDWARE, 4)
    turns.run(InProcess("round_robin", turns.engines, 1))
    assert turns.hit_rate + 0.1 < simulation.hit_rate <= simulation.endless_hit_rate
    assert len(simulation.answered) == len(turns.answered) == workload.requests


@pytest.mark.parametrize("policy", registry.POLICIES)
@pytest.mark.parametrize("gateways", [1, 3])
def test_every_policy_can_be_simulated_and_gives_the_same_each_time(policy: str, gateways: int) -> None:
    workload = generate(MULTI_TURN, 40, 100.0, seed=1)
    found = []
    for _ in range(2):
        simulation = Simulation(workload, HARDWARE, 3, gateways)
        simulation.run(InProcess(policy, simulation.engines, gateways))
        found.append([(one.session, one.turn, one.first) for one in simulation.answered])
    assert len(found[0]) == workload.requests
    if policy != "power_of_two":  # it draws lots
        assert found[0] == found[1]


def test_gateways_tell_each_other_what_they_learned() -> None:
    progress = Progress(Session("s", 0.0, words(600, "system"), (Turn(0, "hello", 3),)))
    path, body = progress.ask()
    tokens = prompt_tokens(path, body)
    simulation = Simulation(conversation(), HARDWARE, 4)
    router = InProcess("prefix_affinity", simulation.engines, 2)
    engine, work = router.choose(0, path, body, tokens, 0.0)
    router.began(0, engine, work)
    router.ended(0, engine)
    other, more = router.choose(1, path, body, tokens, 1.0)
    assert other == engine
    assert more < work / 4


def test_prefix_affinity_comes_near_an_oracle_within_the_same_bound() -> None:
    workload = generate(AGENTS, 400, 300.0, seed=2)
    oracle = Simulation(workload, HARDWARE, 8)
    oracle.run(Oracle(oracle.engines))
    ours = Simulation(workload, HARDWARE, 8, gateways=3)
    ours.run(InProcess("prefix_affinity", ours.engines, 3))

    def p90(simulation: Simulation) -> float:
        return quantile([one.first for one in simulation.answered if one.first is not None], 0.9)

    assert p90(ours) <= 1.2 * p90(oracle)
    assert ours.hit_rate >= 0.97 * oracle.hit_rate
    assert ours.balance.peak <= BOUND
