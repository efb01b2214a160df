"""What is computed of models is what Transformers builds and vLLM holds."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.models.architecture import parse
from shoal.models.parameters import KNOWN, computed
from shoal.models.profile import read_profile
from shoal.models.weights import stage_layers
from shoal.node.engine_options import EngineOptions
from shoal.node.fit import cpu_fit
from support.models import SHAPES

# kimi_k2 is deepseek_v3 with other numbers, in code of its own that is not in Transformers.
TYPES = sorted(KNOWN - {"kimi_k2"})
ENGINE = """
from vllm import LLM
import sys
if __name__ == "__main__":
    llm = LLM(sys.argv[1], enforce_eager=True)
    config = llm.llm_engine.vllm_config
    cache = config.cache_config
    print("FOUND", cache.num_gpu_blocks * cache.block_size, cache.block_size, config.model_config.max_model_len)
"""


@pytest.mark.parametrize("model_type", TYPES)
def test_the_size_computed_from_a_configuration_is_that_of_the_model_transformers_builds(
    model_path: Path, model_type: str
) -> None:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    config = transformers.CONFIG_MAPPING[model_type]()
    config.num_hidden_layers = min(4, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    kind = transformers.AutoModel if model_type == "bert" else transformers.AutoModelForCausalLM
    with torch.device("meta"):  # shapes without memory
        model = kind.from_config(config)
    built = sum(p.numel() for p in model.parameters())
    built += sum(b.numel() for name, b in model.named_buffers() if "e_score_correction" in name)
    written = json.loads(config.to_json_string(use_diff=False))
    assert computed(written, parse(written)).parameters == built


@pytest.mark.rare  # changes with vLLM's version only; it looks at each architecture for half a minute
@pytest.mark.parametrize("name", sorted(path.name for path in SHAPES.iterdir()))
def test_vllm_reads_the_same_shape(model_path: Path, name: str) -> None:
    config: Any = importlib.import_module("vllm.config")
    theirs = config.ModelConfig(model=str(SHAPES / name), skip_tokenizer_init=True)
    ours = read_profile(SHAPES / name).architecture
    found = theirs.model_arch_config
    assert (ours.layers, ours.heads, ours.head_dim, ours.vocab) == (
        found.total_num_hidden_layers,
        found.total_num_attention_heads,
        found.head_size,
        found.vocab_size,
    )
    assert ours.kv_heads == found.total_num_kv_heads
    assert (ours.latent, ours.experts) == (theirs.use_mla, found.num_experts)
    assert ours.max_len == theirs.max_model_len


@pytest.mark.parametrize(("layers", "stages"), [(80, 8), (61, 2), (61, 4), (30, 4), (7, 5)])
def test_layers_are_divided_as_vllm_divides_them(model_path: Path, layers: int, stages: int) -> None:
    utils: Any = importlib.import_module("vllm.distributed.utils")
    spans = [utils.get_pp_indices(layers, rank, stages) for rank in range(stages)]
    assert stage_layers(layers, stages) == tuple(end - begin for begin, end in spans)


def test_the_headers_of_a_real_checkpoint_account_for_every_byte(model_path: Path) -> None:
    weights = read_profile(model_path).weights
    file = model_path / "model.safetensors"
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert weights.source == "safetensors"
    assert weights.parameters == 134_515_008
    assert weights.total + header == file.stat().st_size
    config = json.loads((model_path / "config.json").read_text())
    assert computed(config, parse(config)).layers == weights.layers


def test_a_real_engine_holds_as_many_tokens_as_planned(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "engine.py").write_text(ENGINE)
    env = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "engine.py"), str(model_path)],
        env=env | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stdout[-2000:] + done.stderr[-2000:]
    tokens, block, length = map(int, lines[0].split()[1:])
    fit = cpu_fit(read_profile(model_path), EngineOptions(), 8 * 1024**3, 1024**3)
    assert fit.max_len == length
    assert tokens <= fit.tokens < tokens + block
