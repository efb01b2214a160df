"""`shoal optimize` as a user runs it: a real model is quantised, a cluster serves it, real vLLM measures it."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shoal.optimize import environment
from support.cluster import Cluster
from support.load import Load

pytestmark = pytest.mark.timeout(900)
QUESTION = [{"role": "user", "content": "Why do fish swim in schools?"}]


def shoal(*words: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal", "optimize", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    """Return the model with 8-bit weights."""
    made = tmp_path_factory.mktemp("optimize") / "w8a8"
    done = shoal("quantize", model_path, "-o", made, "--scheme", "w8a8", "--method", "rtn")
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.rare  # quantises a real model and starts an engine more
def test_a_quantised_model_is_served_by_a_cluster(
    tmp_path: Path, quantised: Path, real_model: dict[str, Any]
):
    config = json.loads((quantised / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "w8a8" in (quantised / "README.md").read_text()
    args = {k: v for k, v in real_model["args"].items() if k != "dtype"}
    model = real_model | {"path": str(quantised), "name": "small", "args": args}
    cluster = Cluster(tmp_path, nodes=1, model=model)
    try:
        cluster.start_node(0)
        cluster.wait_ready(deadline=400)
        reply = cluster.chat(0, model="small", messages=QUESTION, max_tokens=24, temperature=0)
        assert reply.status_code == 200, reply.text
        assert "fish" in reply.json()["choices"][0]["message"]["content"].lower()
    finally:
        cluster.close()


@pytest.mark.rare  # two more engines, and minutes of questions
def test_it_is_smaller_and_about_as_good(model_path: Path, quantised: Path):
    # Without VNNI a CPU adds products of 8-bit numbers up in 16 bits, where large sums are cut off (docs/optimize.md).
    exact = "vnni" in Path("/proc/cpuinfo").read_text()
    rise, agreement = ("5%", "85%") if exact else ("10%", "80%")
    limits = ("--max-perplexity-rise", rise, "--min-agreement", agreement, "--min-smaller", "1.5")
    small = ("--texts", 8, "--length", 128, "--answers", 2, "--tokens", 8, "--rounds", 1, "--load", 1)
    measured = shoal("evaluate", model_path, quantised, *limits, *small, "--json")
    assert measured.returncode == 0, measured.stderr + measured.stdout
    numbers = json.loads(measured.stdout)
    assert numbers["not_kept"] == []
    assert all(speed["tokens"] > 1 for model in numbers["models"] for speed in model["speeds"])


@pytest.mark.rare  # two real engines, each loaded twice
def test_a_quantised_model_is_rolled_out_while_clients_ask(
    tmp_path: Path, quantised: Path, real_model: dict[str, Any]
):
    cluster = Cluster(tmp_path, nodes=2, model=real_model | {"name": "chat"})
    try:
        for index in (0, 1):
            cluster.start_node(index)
        cluster.wait_ready(deadline=400)
        before = [p.pid for index in (0, 1) for p in cluster.engine_processes(index)]
        with Load(cluster, [0, 1], clients=2, streams=1, limit=600, pause=0.2, model="chat") as load:
            told = shoal(
                "rollout", quantised, "-c", cluster.path, "--prompts", 16, "--watch", 15, "--max-slower", 5
            )
        assert told.returncode == 0, told.stdout + told.stderr
        print(told.stdout)
        assert "says the same next word as" in told.stdout
        assert load.failures == []
        after = [p.pid for index in (0, 1) for p in cluster.engine_processes(index)]
        assert len(after) == len(before) == 2
        assert not set(after) & set(before)
        assert all(
            str(quantised) in " ".join(p.cmdline()) for i in (0, 1) for p in cluster.engine_processes(i)
        )
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> dict[str, tuple[Path, Any]]:
    """Return what is made of a tiny model with random weights, and what was said, by what it was made with.

    The environment that llmcompressor runs in is made on first use: on a new machine, this is it.
    """
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("tiny")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **shape)
    transformers.LlamaForCausalLM(config).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    commands = {
        "sparsegpt": ("prune", "--sparsity", "2:4", "--method", "sparsegpt"),
        "wanda": ("prune", "--sparsity", "2:4", "--method", "wanda"),
        "w4a16": ("quantize", "--scheme", "w4a16"),
    }

    def made(name: str) -> tuple[Path, Any]:
        few = ("--samples", 4, "--length", 64)
        return place / name, shoal(*commands[name], place / "model", "-o", place / name, *few)

    with ThreadPoolExecutor() as pool:  # at once: most of it is importing llmcompressor, on one core each
        made_of = dict(zip(commands, pool.map(made, commands), strict=True))
    assert (environment.default_directory() / "ready").exists()
    return made_of


@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
def test_two_of_four_weights_are_zero_and_nobody_is_promised_speed(
    tiny: dict[str, tuple[Path, Any]], method: str
):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    path, done = tiny[method]
    assert done.returncode == 0, done.stderr
    assert "serves this model as if it were dense" in done.stderr
    assert "50 % of the weights of linear layers are zero" in done.stdout
    made = transformers.LlamaForCausalLM.from_pretrained(path)
    for layer in made.model.layers:
        fours = layer.mlp.down_proj.weight.view(-1, 4)
        assert torch.all((fours != 0).sum(1) <= 2)
        assert torch.any(fours != 0)


def test_four_bits_of_a_small_model_are_in_fine_groups_with_zero_points(tiny: dict[str, tuple[Path, Any]]):
    path, done = tiny["w4a16"]
    assert done.returncode == 0, done.stderr
    assert "Quantised to w4a16 in groups of 32" in done.stdout
    config = json.loads((path / "config.json").read_text())["quantization_config"]
    weights = config["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (4, 32, False)
    with pytest.importorskip("safetensors").safe_open(path / "model.safetensors", "pt") as file:
        kinds = {name.split(".")[-1]: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    # Computed in float32, on a CPU; what stays a float is saved in half of that.
    assert kinds == {
        "weight": "BF16",
        "weight_packed": "I32",
        "weight_scale": "BF16",
        "weight_shape": "I64",
        "weight_zero_point": "I32",
    }


def test_what_is_there_already_is_left_alone(model_path: Path, tiny: dict[str, tuple[Path, Any]]):
    path, _done = tiny["w4a16"]
    before = sorted(path.iterdir())
    again = shoal("quantize", model_path, "-o", path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1), again.stderr
    assert sorted(path.iterdir()) == before
