from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.gateway.run import BenchError
from benchmarks.routing.__main__ import chosen
from benchmarks.routing.plan import FULL, QUICK
from benchmarks.routing.run import visits
from benchmarks.routing.targets import Gateway, Site, shoal_config, targets

from shoal.config import load
from shoal.routing import registry


def site(tmp_path: Path, gateways: int) -> Site:
    made = [Gateway(18000 + n, (18100 + n, 18200 + n), tmp_path / f"g{n}") for n in range(gateways)]
    for one in made:
        one.directory.mkdir()
    return Site(tmp_path / "program", made, [19000, 19001])


@pytest.mark.parametrize("policy", registry.POLICIES)
def test_shoals_configuration_is_valid(tmp_path: Path, policy: str) -> None:
    file = tmp_path / "shoal.yaml"
    file.write_text(shoal_config(policy, site(tmp_path, 3)))
    config = load(file).config
    assert len(config.nodes) == 3
    assert config.models[0].policy == policy


def test_each_gateway_of_a_target_has_its_own_port(tmp_path: Path) -> None:
    where = site(tmp_path, 2)
    for target in targets():
        first, second = (" ".join(target.command(where, index).arguments) for index in (0, 1))
        assert "18000" in first
        assert "18001" in second


def test_a_quick_run_has_every_policy_but_those_that_are_equal_here() -> None:
    quick, full = chosen(None, quick=True), chosen(None, quick=False)
    left_out = {target.name for target in full} - {target.name for target in quick}
    assert left_out == {"shoal weighted_round_robin"}


def test_targets_are_named_by_parts_of_their_names() -> None:
    assert [t.name for t in chosen("affinity, smg", quick=True)] == [
        "shoal prefix_affinity",
        "smg cache_aware",
    ]
    with pytest.raises(BenchError, match="no target 'nginx'; there are shoal"):
        chosen("nginx", quick=False)


def test_every_target_meets_every_workload_and_the_ladder_once() -> None:
    chosen_targets = targets()
    todo = visits(chosen_targets, FULL)
    assert len(todo) == len(chosen_targets) * len(FULL.gateways) * FULL.seeds
    jobs = [(v.target.name, v.gateways, j) for v in todo for j in v.jobs]
    assert len(jobs) == len(set(jobs))
    ladder = [job for _, gateways, job in jobs if job.rate != 1.0 and gateways == 1]
    assert len(ladder) == len(chosen_targets) * len(FULL.ladder) * len(FULL.requests)
    several = {v.target.name for v in visits(chosen_targets, QUICK) if v.gateways == 3}
    assert several == {"shoal prefix_affinity", "vllm-router cache_aware", "smg cache_aware"}
