import pytest

from shoal.engine.gpu import Gpu
from shoal.node.errors import StartError
from shoal.node.placement import place
from support.configs import config

GIB = 1024**3


def gpus(count: int, memory: int = 24 * GIB) -> list[Gpu]:
    return [Gpu(index=i, uuid=f"GPU-{i}", name="test", total=memory, free=memory) for i in range(count)]


def placed(
    models: str, have: int, node: str = "{host: 127.0.0.1}", **more: int
) -> dict[str, tuple[int, ...]]:
    c = config(f"nodes: [{node}]\n{models}\n")
    return {p.id: p.gpus for p in place(c, c.nodes[0], gpus(have), more)}


@pytest.mark.parametrize("kind", ["small", "medium", "large", "xlarge", "auto"])
def test_without_gpus_a_node_runs_one_engine(kind: str):
    assert placed(f"model: {{path: m, type: {kind}}}", 0) == {"m-0": ()}


@pytest.mark.parametrize("kind", ["small", "medium"])
def test_small_and_medium_run_one_engine_per_gpu(kind: str):
    assert placed(f"model: {{path: m, type: {kind}}}", 3) == {"m-0": (0,), "m-1": (1,), "m-2": (2,)}


@pytest.mark.parametrize("kind", ["large", "xlarge"])
def test_large_runs_one_engine_over_all_gpus(kind: str):
    assert placed(f"model: {{path: m, type: {kind}}}", 4) == {"m-0": (0, 1, 2, 3)}


def test_auto_takes_one_gpu_per_engine_when_one_holds_the_weights():
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


def test_one_engine_across_nodes_is_refused_in_words():
    c = config("nodes: [{host: 127.0.0.1}, {host: 127.0.0.1, port: 8001}]\nmodel: {path: m, type: xlarge}")
    with pytest.raises(StartError, match="one engine across nodes"):
        place(c, c.nodes[0], [])


def test_engine_ids_are_fit_for_file_names():
    assert placed("model: {path: x, name: org/model v1}", 0) == {"org-model-v1-0": ()}
