from pathlib import Path

import pytest
from benchmarks.gateway.peers import TARGETS, Kind, Site, Target, shoal_config

from shoal.config import load

WITH_COMMAND = [target for target in TARGETS if target.command is not None]


def site(directory: Path) -> Site:
    return Site(Path("/opt/program"), directory, 18001, 18002, (18003, 18004))


def test_names_are_unique() -> None:
    names = [target.name for target in TARGETS]
    assert len(set(names)) == len(names)


def test_a_quick_run_has_what_the_budgets_need() -> None:
    kinds = [target.kind for target in TARGETS if target.quick]
    assert {Kind.DIRECT, Kind.PROXY, Kind.RUST, Kind.SHOAL} <= set(kinds)
    assert "nginx" in [target.name for target in TARGETS if target.quick]


@pytest.mark.parametrize("target", WITH_COMMAND, ids=lambda target: target.name)
def test_every_target_is_told_its_port_and_both_engines(target: Target, tmp_path: Path) -> None:
    assert target.command is not None
    command = target.command(site(tmp_path))
    files = "".join(file.read_text() for file in tmp_path.iterdir())
    told = " ".join(command.arguments) + files
    assert command.arguments[0] == "/opt/program"
    for port in ("18001", "18003", "18004"):
        assert port in told


def test_routers_that_check_keys_take_the_load_generators(tmp_path: Path) -> None:
    litellm = next(target for target in TARGETS if target.name == "litellm")
    assert litellm.command is not None
    assert litellm.command(site(tmp_path)).environment["LITELLM_MASTER_KEY"]


@pytest.mark.parametrize("workers", [1, 2])
def test_shoals_file_is_one_that_shoal_takes(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "shoal.yaml"
    file.write_text(shoal_config(18001, (18003, 18004), workers, tmp_path / 'a "state"'))
    config = load(file, {}).config
    assert config.nodes[0].name == "127.0.0.1:18001"
    assert config.gateway.workers == workers
    assert config.models[0].policy == "least_connections"
    urls = [str(address.url) for address in config.models[0].addresses]
    assert [url.rstrip("/") for url in urls] == ["http://127.0.0.1:18003", "http://127.0.0.1:18004"]
    assert str(config.state_dir) == str(tmp_path / 'a "state"')
