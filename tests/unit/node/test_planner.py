"""What a cluster will run, and what is said of what will not."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.engine.gpu import Gpu
from shoal.models.profile import Profile
from shoal.node.errors import StartError
from shoal.node.hardware import NodeHardware
from shoal.node.placement import place
from shoal.node.plan_groups import PlanInput
from shoal.node.plan_types import Plan
from shoal.node.planner import plan_cluster
from support.configs import config
from support.models import profile
from support.thorough import tries

GIB = 1024**3
MODELS = {
    name: profile(name)
    for name in ("Llama-3.1-8B", "Llama-3.3-70B", "Qwen3-32B", "DeepSeek-V3", "SmolLM2-1.7B")
}


def machine(*gpus: tuple[str, float, float | None], memory: int = 256, cores: int = 32) -> NodeHardware:
    """Return a machine with GPUs of (name, GiB, GB/s)."""
    return NodeHardware(
        gpus=tuple(
            Gpu(
                index=i,
                uuid=f"GPU-{i}",
                name=name,
                total=int(size * GIB),
                free=int(size * GIB),
                bandwidth=int(speed * 1e9) if speed else None,
            )
            for i, (name, size, speed) in enumerate(gpus)
        ),
        memory=memory * GIB,
        cores=cores,
        source="a test",
    )


H100, A100, L4, RTX = ("H100", 80, 3350), ("A100", 80, 2039), ("L4", 22.5, 300), ("RTX 4090", 24, 1008)
CPU = machine()


def plan(
    text: str, machines: Sequence[NodeHardware], model: str = "Llama-3.1-8B", known: Profile | None = None
) -> Plan:
    """Return the plan of a file whose models are all of one shape."""
    c = config(text)
    hardware = {node.name: m for node, m in zip(c.nodes, machines, strict=True)}
    found = known or MODELS[model]
    return plan_cluster(PlanInput(c, hardware, {m.name: found for m in c.models if m.engine == "vllm"}))


def cluster(model: str, nodes: int = 1) -> str:
    hosts = "".join(f"  - host: 10.0.0.{i + 1}\n" for i in range(nodes))
    return f"nodes:\n{hosts}model: {model}\n"


def told(made: Plan) -> str:
    return "\n".join(
        [*(f"{r.by}: {r.sentence} -> {'; '.join(r.nearest)}" for r in made.refusals), *made.notes]
    )


def test_a_plan_that_fits_says_no_more_than_what_runs() -> None:
    made = plan(cluster("{path: m, args: {max_model_len: 16384}}", 2), [machine(H100, H100)] * 2)
    assert (made.refusals, made.notes) == ((), ())
    engines = [(n.name, e.id, e.gpus, e.tensor, e.weight) for n in made.nodes for e in n.engines]
    assert engines == [
        ("10.0.0.1:8000", "m-0", (0,), 1, 1.0),
        ("10.0.0.1:8000", "m-1", (1,), 1, 1.0),
        ("10.0.0.2:8000", "m-0", (0,), 1, 1.0),
        ("10.0.0.2:8000", "m-1", (1,), 1, 1.0),
    ]


def test_requests_that_are_too_long_come_with_the_longest_that_fits() -> None:
    made = plan(cluster("{path: m, type: small}"), [machine(RTX)])
    (refusal,) = made.refusals
    assert refusal.by == "vllm"
    assert "one request of 131072 tokens, the longest it allows, keeps 17.2 GB" in refusal.sentence
    assert refusal.nearest[0].startswith("`args: {max_model_len: ")
    length = int(refusal.nearest[0].split(": ")[2].split("}")[0])
    assert (
        plan(cluster(f"{{path: m, type: small, args: {{max_model_len: {length}}}}}"), [machine(RTX)]).refusals
        == ()
    )
    longer = f"{{path: m, type: small, args: {{max_model_len: {length + 1024}}}}}"
    assert plan(cluster(longer), [machine(RTX)]).refusals


def test_a_model_too_large_for_one_gpu_is_sent_to_more_on_the_same_node() -> None:
    made = plan(
        cluster("{path: m, type: small, args: {max_model_len: 8192}}"),
        [machine(*[H100] * 8)],
        "Llama-3.3-70B",
    )
    (refusal,) = made.refusals
    assert refusal.by == "shoal"
    assert "`gpus_per_engine: 2` on the same node" in refusal.nearest


def test_a_model_too_large_for_a_node_says_what_an_engine_across_nodes_would_be() -> None:
    made = plan(cluster("{path: m}", 2), [machine(*[H100] * 8)] * 2, "DeepSeek-V3")
    (refusal,) = made.refusals
    assert refusal.nodes == ("10.0.0.1:8000", "10.0.0.2:8000")
    assert "needs 673 GB for its weights" in refusal.sentence
    assert "the largest node gives 632 GB, both together 1264 GB" in refusal.sentence
    assert refusal.nearest[0] == (
        "one engine over 2 nodes, `nodes_per_engine: 2` (tensor parallel 8 in each, pipeline parallel 2 across)"
    )


def test_an_engine_across_nodes_is_planned_as_its_parts() -> None:
    text = cluster("{path: m, type: xlarge, args: {max_model_len: 8192}}", 2)
    made = plan(text, [machine(*[H100] * 8)] * 2, "DeepSeek-V3")
    assert made.refusals == ()
    engines = [(n.name, e.id, e.tensor, e.stages, e.rank) for n in made.nodes for e in n.engines]
    assert engines == [("10.0.0.1:8000", "m-0", 8, 2, 0), ("10.0.0.2:8000", "m-0", 8, 2, 1)]
    assert made.nodes[0].engines[0].nodes == ("10.0.0.1:8000", "10.0.0.2:8000")
    assert plan(cluster("{path: m, type: xlarge}"), [machine(*[H100] * 8)], "Llama-3.3-70B").refusals == ()


def test_one_that_does_not_fit_names_more_nodes() -> None:
    made = plan(cluster("{path: m, type: xlarge}", 2), [machine(*[L4] * 2)] * 2, "Llama-3.3-70B")
    (refusal,) = made.refusals
    assert "141 GB" in refusal.sentence
    assert any(way.startswith("one engine over 4 nodes like these") for way in refusal.nearest)


def test_one_over_unequal_nodes_is_refused_with_what_each_has() -> None:
    machines = [machine(*[H100] * 8), machine(*[H100] * 8), machine(*[A100] * 4)]
    made = plan(cluster("{path: m, type: xlarge, args: {max_model_len: 8192}}", 3), machines, "Llama-3.3-70B")
    (refusal,) = [r for r in made.refusals if "unequal nodes" in r.sentence]
    assert "10.0.0.3:8000 has 4 x A100" in refusal.sentence
    assert "`nodes: [10.0.0.1:8000, 10.0.0.2:8000]`" in refusal.nearest[0]


def test_nodes_that_have_no_part_are_told() -> None:
    text = cluster("{path: m, nodes_per_engine: 2, args: {max_model_len: 8192}}", 3)
    made = plan(text, [machine(H100)] * 3, "Llama-3.1-8B")
    assert "each engine spans 2 nodes, so 10.0.0.3:8000 has no part in one" in told(made)


def test_nodes_that_differ_get_weights_after_their_bandwidth() -> None:
    text = cluster("{path: m, args: {max_model_len: 8192}}", 2)
    made = plan(text, [machine(A100), machine(L4)])
    assert "10.0.0.1:8000 `weight: 6.8`, 10.0.0.2:8000 `weight: 1`" in told(made)
    # Written so in the file, there is nothing left to say.
    written = text.replace("10.0.0.1\n", "10.0.0.1\n    weight: 6.8\n")
    assert plan(written, [machine(A100), machine(L4)]).notes == ()


def test_without_bandwidths_weights_are_after_memory_and_without_gpus_after_cores() -> None:
    text = cluster("{path: m, args: {max_model_len: 8192}}", 2)
    made = plan(text, [machine(("A", 80, None)), machine(("B", 40, 1000))])
    assert "`weight: 2`" in told(made)
    made = plan(text, [machine(cores=64), machine(cores=16)])
    assert "10.0.0.1:8000 `weight: 4`" in told(made)


def test_a_node_whose_own_gpus_differ_is_told_to_be_two() -> None:
    made = plan(cluster("{path: m, args: {max_model_len: 8192}}"), [machine(A100, A100, L4)])
    assert "Make it a node for each kind of GPU" in told(made)
    assert "on GPUs 0, 1 `weight: 6.8`, 10.0.0.1:8000 on GPU 2 `weight: 1`" in told(made)


def test_gpus_that_stay_idle_are_told() -> None:
    made = plan(cluster("{path: m, args: {max_model_len: 8192}}"), [machine(*[RTX] * 6)], "Qwen3-32B")
    assert made.nodes[0].idle == (4, 5)
    assert "10.0.0.1:8000: GPUs 4, 5 stay idle." in made.notes


def test_gpus_that_are_given_away_twice_are_refused() -> None:
    two = "nodes: [{host: 10.0.0.1}, {host: 10.0.0.1, port: 8001}]\nmodel: {path: m, args: {max_model_len: 8192}}\n"
    made = plan(two, [machine(H100)] * 2)
    (refusal,) = made.refusals
    assert "GPU 0 of 10.0.0.1 is given to 2 engines that take 1.84 of its memory" in refusal.sentence
    fair = two.replace("8192}", "8192, gpu_memory_utilization: 0.47}")
    assert plan(fair, [machine(H100)] * 2).refusals == ()


def test_on_cpus_engines_of_one_machine_share_its_memory() -> None:
    assert plan(cluster("{path: m}"), [machine(memory=32)], "SmolLM2-1.7B").refusals == ()
    three = (
        "nodes:\n"
        + "".join(f"  - {{host: 127.0.0.1, port: {8000 + i}}}\n" for i in range(3))
        + "model: {path: m}\n"
    )
    (refusal,) = plan(three, [machine(memory=16)] * 3, "SmolLM2-1.7B").refusals
    assert "3 engines share the machine" in refusal.sentence
    assert "fewer engines on the machine" in refusal.nearest


def test_a_machine_too_small_is_told_what_memory_it_takes() -> None:
    (refusal,) = plan(cluster("{path: m}"), [machine(memory=16)], "Llama-3.1-8B").refusals
    assert "needs 16.1 GB of memory for its weights" in refusal.sentence
    assert "a machine with 36" in refusal.nearest[-1]


def test_a_standby_is_planned_for_every_node_it_may_stand_in_for() -> None:
    text = """
    nodes: [{host: 10.0.0.1}, {host: 10.0.0.2, role: standby}, {host: 10.0.0.3, role: gateway}]
    model: {path: m, args: {max_model_len: 8192}}
    """
    made = plan(text, [machine(H100), machine(RTX), CPU])
    assert [[(e.id, e.covers) for e in n.engines] for n in made.nodes] == [
        [("m-0", "")],
        [("m-0", "10.0.0.1:8000")],
        [],
    ]


def test_what_is_not_known_is_said_and_not_guessed() -> None:
    c = config(cluster("{path: org/m}"))
    made = plan_cluster(PlanInput(c, {"10.0.0.1:8000": machine(H100)}, {}, {"m": "not here"}))
    assert made.models[0].unknown == "not here"
    assert made.nodes[0].engines[0].fit is None
    opaque = plan(cluster("{path: m, args: {quantization: fp8}}"), [machine(H100)])
    assert opaque.nodes[0].engines[0].fit is None
    assert "with --quantization only vLLM knows" in told(opaque)


GPUS = st.lists(st.sampled_from([H100, A100, L4, RTX]), max_size=9)
KINDS = st.sampled_from(["auto", "small", "medium", "large", "xlarge"])


@settings(max_examples=tries(150), deadline=None)
@given(
    st.lists(GPUS, min_size=1, max_size=3),
    KINDS,
    st.sampled_from(sorted(MODELS)),
    st.sampled_from([None, 4096]),
)
def test_every_plan_keeps_its_promises(
    machines: list[list[tuple[str, float, float]]], kind: str, model: str, length: int | None
) -> None:
    args = f", args: {{max_model_len: {length}}}" if length else ""
    text = cluster(f"{{path: m, type: {kind}{args}}}", len(machines))
    hardware = [machine(*gpus) for gpus in machines]
    made = plan(text, hardware, model)
    msgspec.json.encode(made)
    arch = MODELS[model].architecture
    refused = {name for r in made.refusals for name in r.nodes}
    for node, here in zip(made.nodes, hardware, strict=True):
        used = [gpu for e in node.engines for gpu in e.gpus]
        assert len(used) == len(set(used)), "a GPU is given to two engines"
        assert set(used) <= {g.index for g in here.gpus}
        assert node.engines or node.name in refused, "a node runs nothing and nobody says why"
        for engine in node.engines:
            ranks = max(1, len(engine.gpus)) * max(1, len(engine.nodes))
            assert engine.tensor * engine.stages * engine.data == ranks or node.name in refused
            assert arch.heads % engine.tensor == 0
            memories = {here.gpus[i].total for i in engine.gpus}
            assert len(memories) <= 1, "an engine over unequal GPUs"
            assert engine.fit is not None
            assert (engine.fit.verdict == "fits") or node.name in refused
            if engine.fit.verdict == "fits" and engine.gpus:
                assert engine.fit.weights + engine.fit.overhead + engine.fit.cache <= engine.fit.budget
                assert engine.fit.cache >= engine.fit.request
    assert all(r.nearest for r in made.refusals)


@settings(max_examples=tries(60), deadline=None)
@given(GPUS, KINDS, st.sampled_from(sorted(MODELS)))
def test_a_plan_is_what_serve_does(gpus: list[tuple[str, float, float]], kind: str, model: str) -> None:
    c = config(cluster(f"{{path: m, type: {kind}}}"))
    here = machine(*gpus)
    made = plan_cluster(PlanInput(c, {"10.0.0.1:8000": here}, {"m": MODELS[model]}))
    try:
        placed = place(c, c.nodes[0], here.gpus, {"m": MODELS[model]})
    except StartError:
        assert made.nodes[0].engines == ()
        assert made.refusals[0].by == "shoal"
        return
    assert [(e.id, e.gpus, e.why) for e in made.nodes[0].engines] == [(p.id, p.gpus, p.why) for p in placed]
    assert all(r.by == "vllm" for r in made.refusals)


@settings(max_examples=tries(40), deadline=None)
@given(st.integers(1, 8), st.sampled_from([H100, L4, RTX]), st.sampled_from(sorted(MODELS)))
def test_auto_finds_an_engine_wherever_one_would_run(
    count: int, gpu: tuple[str, float, float], model: str
) -> None:
    here = machine(*[gpu] * count)
    auto = plan(cluster("{path: m}"), [here], model)
    explicit = [
        plan(cluster(f"{{path: m, gpus_per_engine: {size}}}"), [here], model) for size in range(1, count + 1)
    ]
    assert bool(auto.refusals) == all(made.refusals for made in explicit)


@pytest.mark.parametrize("bad", ["xlarge", "large"])
def test_refusals_are_one_for_all_nodes_they_hold_for(bad: str) -> None:
    made = plan(cluster(f"{{path: m, type: {bad}}}", 3), [machine(RTX)] * 3, "Llama-3.3-70B")
    assert len(made.refusals) == 1
    assert len(made.refusals[0].nodes) == 3


def test_of_a_command_the_plan_says_that_only_its_program_knows() -> None:
    c = config(cluster("{name: m, engine: command, command: 'llama-server --port {port}'}"))
    made = plan_cluster(PlanInput(c, {"10.0.0.1:8000": machine()}, {}))
    assert made.models[0].unknown == "served by llama-server: only that knows its size"
    assert [(e.id, e.hardware, e.fit) for e in made.nodes[0].engines] == [("m-0", "CPU", None)]
    assert not made.refusals
