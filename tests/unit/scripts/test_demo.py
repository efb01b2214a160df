import socket
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import demo
from demo import DemoError, affordable, check_ports, write_config
from shoal.config import load

GIB = 1024**3


def test_with_enough_memory_all_nodes_start_and_nothing_is_said() -> None:
    assert affordable(12 * GIB, 3) == (3, "")


def test_short_memory_starts_fewer_nodes_and_says_so() -> None:
    count, remark = affordable(7 * GIB, 3)
    assert count == 2
    assert "9 GiB" in remark
    assert "7.0 GiB are free" in remark
    assert "2 of 3" in remark


def test_too_little_memory_for_one_engine_is_an_error() -> None:
    with pytest.raises(DemoError, match="needs about 3 GiB"):
        affordable(2 * GIB, 3)


def test_the_demos_file_is_valid_and_names_three_nodes_with_one_engine_each() -> None:
    config = load(demo.CONFIG, {"SHOAL_DEMO_MODEL": "/models/m", "HOME": "/home/me"}).config
    assert [n.name for n in config.nodes] == ["127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002"]
    assert config.models[0].path == "/models/m"
    assert config.models[0].engines_per_node == 1
    by_hand = load(demo.CONFIG, {"HOME": "/home/me"}).config
    assert by_hand.models[0].path == "/home/me/.cache/shoal/models/SmolLM2-135M-Instruct"


def test_a_smaller_demo_is_the_same_file_with_fewer_nodes_on_other_ports(tmp_path: Path) -> None:
    names = write_config(demo.CONFIG, tmp_path / "demo.yaml", 2, 9000)
    assert names == ["127.0.0.1:9000", "127.0.0.1:9001"]
    yaml = YAML(typ="safe")
    whole, written = yaml.load(demo.CONFIG), yaml.load(tmp_path / "demo.yaml")
    assert len(written.pop("nodes")) == 2
    del whole["nodes"]
    assert written == whole


def test_a_taken_port_stops_the_demo_with_a_way_out() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(DemoError, match=rf"port {port} is taken.*\n.*PORT=9000"):
            check_ports([f"127.0.0.1:{port}"])
