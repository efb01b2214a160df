"""The command line and the environment of a part of an engine across nodes."""

from __future__ import annotations

import msgspec
import pytest

from shoal.engine.command import command, environment
from shoal.engine.executors import RAY_MEMBER
from shoal.engine.interfaces import interface_of
from shoal.engine.machine import Machine
from shoal.engine.spec import EngineSpec, Part
from unit.engine.fakes import engine_spec

PART = Part(group="a:1/m-0", generation=3, nodes=("a:1", "b:1"), rank=0, host="10.0.0.1", port=20007)


def spec(rank: int = 0, **changes: object) -> EngineSpec:
    return engine_spec(part=msgspec.structs.replace(PART, rank=rank, **changes))


@pytest.mark.parametrize("kind", ["vllm", "sim"])
def test_each_node_starts_the_same_command_and_is_told_which_part_it_is(kind: str):
    first, second = (command(msgspec.structs.replace(spec(rank), kind=kind)) for rank in (0, 1))
    meet = ["--master-addr", "10.0.0.1", "--master-port", "20007"]
    assert first[-8:] == ["--nnodes", "2", "--node-rank", "0", *meet]
    assert second[-9:] == ["--nnodes", "2", "--node-rank", "1", *meet, "--headless"]
    assert first[:-8] == second[:-9] == command(engine_spec(kind=kind))


def test_data_parallel_ranks_meet_at_the_leader_too():
    words = command(spec(1, rpc_port=20008))
    at = words.index("--data-parallel-address")
    assert words[at : at + 4] == ["--data-parallel-address", "10.0.0.1", "--data-parallel-rpc-port", "20008"]


def test_the_network_follows_from_the_nodes_address_unless_somebody_has_chosen():
    own = spec(address="10.0.0.2", interface="eth1")
    chosen = environment(own, {}, "mark")
    assert [chosen[n] for n in ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")] == [
        "10.0.0.2",
        "eth1",
        "eth1",
    ]
    assert environment(own, {"NCCL_SOCKET_IFNAME": "ib0"}, "mark")["NCCL_SOCKET_IFNAME"] == "ib0"
    by_model = msgspec.structs.replace(own, env={"GLOO_SOCKET_IFNAME": "ib1"})
    assert environment(by_model, {}, "mark")["GLOO_SOCKET_IFNAME"] == "ib1"
    assert "VLLM_HOST_IP" not in environment(engine_spec(), {}, "mark")


def test_the_loopback_interface_is_found_by_its_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") == ""


def test_an_engine_is_the_same_whatever_its_generation():
    assert spec().fingerprint() == spec(generation=4, port=1).fingerprint() == engine_spec().fingerprint()


def test_a_part_on_a_cpu_counts_its_own_processes_only():
    machine = Machine(cores=16, memory=64 << 30)
    words = ("--tensor-parallel-size", "4")
    whole = environment(engine_spec(args=words, gpus=()), {}, "mark", machine)
    part = environment(msgspec.structs.replace(spec(), args=words, gpus=()), {}, "mark", machine)
    assert (whole["OMP_NUM_THREADS"], part["OMP_NUM_THREADS"]) == ("4", "8")


@pytest.mark.parametrize("kind", ["vllm", "sim"])
def test_with_ray_each_node_runs_a_ray_node_and_the_first_the_engine(kind: str):
    first, second = (
        command(msgspec.structs.replace(spec(rank, executor="ray"), kind=kind)) for rank in (0, 1)
    )
    whole = command(engine_spec(kind=kind))
    member = [str(RAY_MEMBER), "--rank", "1", "--nodes", "2", "--head", "10.0.0.1:20007"]
    assert second == [whole[0], *member, "--address", "127.0.0.1"]
    assert first[first.index("--") + 1 :] == [*whole, "--distributed-executor-backend", "ray"]
    assert first[:4] == [whole[0], str(RAY_MEMBER), "--rank", "0"]
