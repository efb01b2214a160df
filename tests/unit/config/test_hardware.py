from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config import ConfigError
from shoal.config.hardware import Hardware, load_hardware
from support.configs import config

CLUSTER = config(
    """
    nodes: [{host: 10.0.0.1}, {host: 10.0.0.2}, {host: 10.0.0.2, port: 8001}, {host: 10.0.0.3, role: gateway}]
    model: {path: m}
    """
)
GOOD = """\
nodes:
  - node: 10.0.0.1
    gpus: [{name: NVIDIA L4, memory: 23034MiB, count: 2, bandwidth: 300}]
    memory: ${RAM}
    cores: 16
  - node: 10.0.0.2
    memory: 64GiB
  - node: 10.0.0.2:8001
"""


def load(tmp_path: Path, text: str) -> Hardware:
    (tmp_path / "hardware.yaml").write_text(text)
    return load_hardware(tmp_path / "hardware.yaml", CLUSTER, {"RAM": "128GiB"})


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    return str(raised.value).replace(f"{tmp_path}/hardware.yaml", "").splitlines()


def test_machines_are_found_by_node_and_by_host(tmp_path: Path) -> None:
    hardware = load(tmp_path, GOOD)
    one, two, three = (
        hardware.of(f"10.0.0.{h}:{p}", f"10.0.0.{h}") for h, p in ((1, 8000), (2, 8000), (2, 8001))
    )
    assert one is not None
    assert two is not None
    assert three is not None
    assert (one.memory, one.cores, one.gpus[0].memory, one.gpus[0].count) == (
        128 * 2**30,
        16,
        23034 * 2**20,
        2,
    )
    assert (two.memory, three.memory) == (64 * 2**30, None)
    assert hardware.of("10.0.0.9:8000", "10.0.0.9") is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ("cores: 16", "cores: many"),
            ':5:12: `nodes[0].cores` is "many"; it must be a whole number from 1 to 4096',
        ),
        (("23034MiB", "24 gigs"), "a size is a number of bytes or a text such as 64MiB"),
        (("name: NVIDIA L4, ", ""), "`name` is missing in `nodes[0].gpus[0]` (The product"),
        (("gpus:", "gpu:"), ":3:5: unknown key `gpu` in `nodes[0]`; did you mean `gpus`?"),
        (("node: 10.0.0.1\n", "node: 10.0.0.9\n"), ":2:11: 10.0.0.9 is no node of the cluster's file"),
        (("${RAM}", "${ROM}"), "ROM"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert any(told in line for line in problems(tmp_path, GOOD.replace(*change)))


def test_a_node_that_is_left_out_is_told_but_a_gateway_needs_no_machine(tmp_path: Path) -> None:
    assert problems(tmp_path, "nodes: [{node: 10.0.0.2}]\n") == [
        ":1:8: node 10.0.0.1:8000 is not described here; add its machine"
    ]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "it must be a mapping" in problems(tmp_path, "- 1\n")[0]
    assert "it must be a mapping" in problems(tmp_path, "")[0]
    with pytest.raises(ConfigError, match="no such file"):
        load_hardware(tmp_path / "nope.yaml", CLUSTER, {})
