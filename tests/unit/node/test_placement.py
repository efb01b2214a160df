from collections.abc import Sequence

import pytest

from shoal.config import Config
from shoal.engine.gpu import Gpu
from shoal.models.profile import Profile
from shoal.node.errors import DoesNotFitError, StartError
from shoal.node.placement import place
from shoal.node.sizing import Known
from support.configs import config
from support.models import profile

GIB = 1024**3


def gpus(count: int, memory: int = 24 * GIB) -> list[Gpu]:
    return [Gpu(index=i, uuid=f"GPU-{i}", name="test", total=memory, free=memory) for i in range(count)]


def placed(
    models: str, have: int | Sequence[Gpu], node: str = "{host: 127.0.0.1}", **known: Known
) -> dict[str, tuple[int, ...]]:
    c = config(f"nodes: [{node}]\n{models}\n")
    machine = gpus(have) if isinstance(have, int) else have
    return {p.id: p.gpus for p in place(c, c.nodes[0], machine, known)}


def mixed(*memories: int) -> list[Gpu]:
    """Return GPUs of these sizes in GiB."""
    return [
        Gpu(index=i, uuid=f"GPU-{i}", name=f"gpu{m}", total=m * GIB, free=m * GIB)
        for i, m in enumerate(memories)
    ]


@pytest.mark.parametrize("kind", ["small", "medium", "large", "xlarge", "auto"])
def test_without_gpus_a_node_runs_one_engine(kind: str):
    assert placed(f"model: {{path: m, type: {kind}}}", 0) == {"m-0": ()}


@pytest.mark.parametrize("kind", ["small", "medium"])
def test_small_and_medium_run_one_engine_per_gpu(kind: str):
    assert placed(f"model: {{path: m, type: {kind}}}", 3) == {"m-0": (0,), "m-1": (1,), "m-2": (2,)}


@pytest.mark.parametrize("kind", ["large", "xlarge"])
def test_large_runs_one_engine_over_all_gpus(kind: str):
    assert placed(f"model: {{path: m, type: {kind}}}", 4) == {"m-0": (0, 1, 2, 3)}


LLAMA_8B, LLAMA_70B, QWEN_32B = (profile(n) for n in ("Llama-3.1-8B", "Llama-3.3-70B", "Qwen3-32B"))


def test_auto_takes_the_fewest_gpus_that_hold_the_model_with_room_for_requests():
    assert placed("model: {path: m}", gpus(2, 80 * GIB), m=LLAMA_8B) == {"m-0": (0,), "m-1": (1,)}
    # Two would hold a request of this length, but hardly more than one.
    short = "model: {path: m, args: {max_model_len: 8192}}"
    assert placed(short, gpus(8, 80 * GIB), m=LLAMA_70B) == {"m-0": (0, 1, 2, 3), "m-1": (4, 5, 6, 7)}
    assert placed(short, gpus(8, 141 * GIB), m=LLAMA_70B)["m-3"] == (6, 7)
    # Where two is all there is, what is possible is taken.
    assert placed(short, gpus(2, 80 * GIB), m=LLAMA_70B) == {"m-0": (0, 1)}


def test_auto_never_makes_engines_that_vllm_cannot_split():
    assert placed("model: {path: m}", gpus(6, 24 * GIB), m=QWEN_32B) == {"m-0": (0, 1, 2, 3)}


def test_auto_does_not_mix_unequal_gpus_in_an_engine():
    args = "args: {max_model_len: 16384}"
    assert placed(f"model: {{path: m, {args}}}", mixed(24, 80, 24, 80), m=QWEN_32B) == {"m-0": (1, 3)}
    assert placed(f"model: {{path: m, {args}}}", mixed(24, 80, 24), m=LLAMA_8B) == {
        "m-0": (1,),
        "m-1": (0,),
        "m-2": (2,),
    }


def test_auto_leaves_a_model_that_only_vllm_can_size_on_as_many_gpus_as_go():
    model = "model: {path: m, args: {quantization: fp8}}"
    assert placed(model, gpus(6, 80 * GIB), m=LLAMA_8B) == {"m-0": (0, 1, 2, 3)}


def test_an_engine_over_unequal_gpus_is_refused_with_the_numbers_and_what_works():
    with pytest.raises(
        StartError, match=r"0, 1 \(gpu80\) with 85.9 GB, 2, 3 \(gpu24\) with 25.8 GB"
    ) as raised:
        placed("model: {path: m, type: large}", mixed(80, 80, 24, 24))
    assert "`gpus: [0, 1]`" in str(raised.value)


def test_a_split_that_does_not_divide_is_refused_with_the_numbers_and_what_works():
    with pytest.raises(
        StartError, match="tensor parallel size 6, and its 64 attention heads do not divide"
    ) as raised:
        placed("model: {path: m, type: large}", gpus(6, 80 * GIB), m=QWEN_32B)
    assert "`gpus_per_engine: 4` (tensor parallel 4, 2 of 6 GPUs idle)" in str(raised.value)
    with pytest.raises(StartError, match="64 layers, fewer than 65"):
        placed("model: {path: m, args: {pipeline_parallel_size: 65}}", gpus(65, 80 * GIB), m=QWEN_32B)
    # The simulated engine splits nothing, and a model that nobody could read is vLLM's to judge.
    assert placed("model: {path: m, engine: sim, type: large}", 6, m=QWEN_32B) == {"m-0": (0, 1, 2, 3, 4, 5)}
    assert placed("model: {path: m, type: large}", 6) == {"m-0": (0, 1, 2, 3, 4, 5)}


def test_weights_that_are_larger_than_the_gpus_are_refused_before_anything_starts():
    with pytest.raises(
        DoesNotFitError, match=r"needs 141 GB for its weights alone, the 1 GPU of an engine .* 25.8 GB"
    ):
        placed("model: {path: m, type: small}", 1, m=LLAMA_70B)
    # What vLLM measures is left to vLLM: here no request of the longest length would fit.
    assert placed("model: {path: m, type: small}", 1, m=LLAMA_8B) == {"m-0": (0,)}
    # With these, what is loaded is not what the files say.
    assert placed("model: {path: m, type: small, args: {cpu_offload_gb: 200}}", 1, m=LLAMA_70B) == {
        "m-0": (0,)
    }


def test_data_parallel_engines_get_a_gpu_for_each_rank():
    assert placed("model: {path: m, args: {data_parallel_size: 2}}", 4, m=14 * GIB) == {
        "m-0": (0, 1),
        "m-1": (2, 3),
    }


def test_every_engine_comes_with_the_reason_for_its_place():
    c = config("nodes: [{host: 127.0.0.1}]\nmodels: [{path: a, type: small}, {path: b, gpus_per_engine: 2}]")
    one = "type small: one engine per GPU"
    assert [p.why for p in place(c, c.nodes[0], gpus(4))] == [one, one, "gpus_per_engine: 2"]


def test_of_files_without_a_shape_auto_knows_only_the_size():
    assert placed("model: {path: m}", 2, m=14 * GIB) == {"m-0": (0,), "m-1": (1,)}
    assert placed("model: {path: m}", 2, m=30 * GIB) == {"m-0": (0, 1)}
    assert placed("model: {path: m}", 2) == {"m-0": (0, 1)}


def test_the_users_own_parallel_size_decides_how_many_gpus_an_engine_gets():
    args = "args: {tensor_parallel_size: 2}"
    assert placed(f"model: {{path: m, type: small, {args}}}", 4) == {"m-0": (0, 1), "m-1": (2, 3)}
    listed = "args: ['--tensor-parallel-size=2', '--pipeline-parallel-size', '2']"
    assert placed(f"model: {{path: m, {listed}}}", 4) == {"m-0": (0, 1, 2, 3)}


def test_a_node_uses_only_the_gpus_the_file_gives_it():
    assert placed("model: {path: m, type: small}", 4, "{host: 127.0.0.1, gpus: [1, 3]}") == {
        "m-0": (1,),
        "m-1": (3,),
    }
    assert placed("model: {path: m, type: small}", 4, "{host: 127.0.0.1, gpus: []}") == {"m-0": ()}
    with pytest.raises(StartError, match=r"names GPU 7, this machine has: 0, 1"):
        placed("model: {path: m}", 2, "{host: 127.0.0.1, gpus: [7]}")


def test_several_models_never_share_a_gpu_unless_the_file_says_so():
    two = "models: [{path: a, type: small}, {path: b, type: large}]"
    assert placed(two, 4) == {"a-0": (0,), "a-1": (1,), "b-0": (2, 3)}
    with pytest.raises(StartError, match="share_gpus: true"):
        placed(two, 1)
    sharing = "models: [{path: a, type: small}, {path: b, engines_per_node: 1, share_gpus: true}]"
    assert placed(sharing, 1) == {"a-0": (0,), "b-0": (0,)}


def test_a_model_that_asks_for_gpus_gets_them_and_the_others_share_the_rest():
    models = """models:
      - {path: a, engines_per_node: 2, gpus_per_engine: 1}
      - {path: b, type: large}
      - {path: c, gpus_per_engine: 0}
    """
    assert placed(models, 4) == {"a-0": (0,), "a-1": (1,), "b-0": (2, 3), "c-0": ()}


def test_models_run_on_serving_nodes_or_on_those_they_name():
    c = config(
        """
        nodes:
          - {host: 127.0.0.1, port: 8000}
          - {host: 127.0.0.1, port: 8001}
          - {host: 127.0.0.1, port: 8002, role: gateway}
        models: [{path: a}, {path: b, nodes: ["127.0.0.1:8001"]}]
        """
    )
    assert [[p.id for p in place(c, n, [])] for n in c.nodes] == [["a-0"], ["a-0", "b-0"], []]


def test_a_standby_places_the_models_of_the_node_it_takes_over_for_on_its_own_gpus():
    c = config(
        """
        nodes: [{host: 127.0.0.1}, {host: 127.0.0.1, port: 8001, role: standby, gpus: [1]}]
        models: [{path: a, type: small}]
        """
    )
    serving, standby = c.nodes
    assert place(c, standby, gpus(2)) == ()
    assert [p.gpus for p in place(c, standby, gpus(2), models=c.models_of(serving))] == [(1,)]


def across(model: str, nodes: int = 2) -> Config:
    hosts = ", ".join(f"{{host: 127.0.0.1, port: {8000 + i}}}" for i in range(nodes))
    return config(f"nodes: [{hosts}]\nmodel: {{path: m, {model}}}")


def parts(c: Config, gpu_count: int, known: Profile | None = None) -> list[tuple[tuple[int, ...], int, str]]:
    """Return GPUs, rank and split of every node's part."""
    profiles = {"m": known} if known else {}
    placed = [p for n in c.nodes for p in place(c, n, gpus(gpu_count, 80 * GIB), profiles)]
    return [(p.gpus, p.rank, str(p.split)) for p in placed]


def test_one_engine_across_nodes_is_tensor_parallel_inside_and_pipeline_parallel_across():
    split = "tensor parallel 4, pipeline parallel 2"
    assert parts(across("type: xlarge"), 4) == [((0, 1, 2, 3), 0, split), ((0, 1, 2, 3), 1, split)]
    (first,) = place(across("type: xlarge"), across("type: xlarge").nodes[0], gpus(4))
    assert first.nodes == ("127.0.0.1:8000", "127.0.0.1:8001")
    # Three do not divide the heads of this model, two do.
    assert parts(across("type: xlarge"), 3, LLAMA_70B)[0] == (
        (0, 1),
        0,
        "tensor parallel 2, pipeline parallel 2",
    )
    assert parts(across("type: xlarge"), 0) == [
        ((), r, "tensor parallel 1, pipeline parallel 2") for r in (0, 1)
    ]


DATA = {n: f"tensor parallel {t}, pipeline parallel 1, data parallel {n}" for n, t in ((2, 4), (8, 1))}


@pytest.mark.parametrize(
    ("model", "have", "split", "local"),
    [
        ("tensor_parallel: 2, nodes_per_engine: 2", 0, "tensor parallel 2, pipeline parallel 1", 0),
        ("tensor_parallel: 4, nodes_per_engine: 2", 4, "tensor parallel 4, pipeline parallel 2", 4),
        ("tensor_parallel: 8, nodes_per_engine: 2", 4, "tensor parallel 8, pipeline parallel 1", 4),
        ("pipeline_parallel: 4, nodes_per_engine: 2", 4, "tensor parallel 2, pipeline parallel 4", 4),
        ("args: {tensor_parallel_size: 2}, type: xlarge", 4, "tensor parallel 2, pipeline parallel 2", 2),
        (
            "args: {data_parallel_size: 2}, type: xlarge",
            4,
            DATA[2],
            4,
        ),
        (
            "args: {data_parallel_size: 8}, type: xlarge",
            4,
            DATA[8],
            4,
        ),
        ("gpus_per_engine: 2, type: xlarge", 4, "tensor parallel 2, pipeline parallel 2", 2),
    ],
)
def test_the_split_follows_what_the_file_says(model: str, have: int, split: str, local: int):
    assert [(len(g), s) for g, _, s in parts(across(model), have)] == [(local, split)] * 2


def test_several_engines_share_the_same_nodes_and_nodes_left_over_have_no_part():
    c = across("nodes_per_engine: 2, engines_per_node: 2, type: large", 5)
    placed = {n.port: [(p.id, p.gpus, p.nodes[0]) for p in place(c, n, gpus(4))] for n in c.nodes}
    assert placed[8003] == [("m-0", (0, 1), "127.0.0.1:8002"), ("m-1", (2, 3), "127.0.0.1:8002")]
    assert placed[8004] == []


def test_a_standby_takes_the_part_of_the_node_it_stands_in_for():
    c = config(
        """
        nodes: [{host: 127.0.0.1}, {host: 127.0.0.1, port: 8001}, {host: 127.0.0.1, port: 8002, role: standby}]
        model: {path: m, type: xlarge}
        """
    )
    *_, standby = c.nodes
    (part,) = place(c, standby, gpus(2), models=c.models, stands_for="127.0.0.1:8001")
    assert (part.rank, part.nodes) == (1, ("127.0.0.1:8000", "127.0.0.1:8001"))


@pytest.mark.parametrize(
    ("model", "have", "known", "sentence"),
    [
        ("tensor_parallel: 3, pipeline_parallel: 1, nodes_per_engine: 2", 4, None, "3 ranks.*over 2 nodes"),
        (
            "tensor_parallel: 8, pipeline_parallel: 2, nodes_per_engine: 2",
            4,
            None,
            "take 8 GPUs on each.*has 4 here",
        ),
        ("tensor_parallel: 6, type: xlarge", 3, LLAMA_70B, "its 64 attention heads do not divide by 6"),
        (
            "pipeline_parallel: 100, tensor_parallel: 1, type: xlarge",
            50,
            LLAMA_70B,
            "80 layers, fewer than 100",
        ),
        ("type: xlarge", 1, LLAMA_70B, "over 2 nodes .* that is 70.6 GB on each GPU, test has 8.6 GB"),
    ],
)
def test_what_cannot_be_divided_over_the_nodes_is_refused_with_numbers(
    model: str, have: int, known: Profile | None, sentence: str
):
    c = across(model)
    with pytest.raises(StartError, match=sentence):
        place(c, c.nodes[0], gpus(have, 8 * GIB), {"m": known} if known else {})


def test_engine_ids_are_fit_for_file_names():
    assert placed("model: {path: x, name: org/model v1}", 0) == {"org-model-v1-0": ()}
