"""A model's directory: configuration and headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.models.errors import ModelError
from shoal.models.profile import find_model, read_profile
from support.models import llama_tensors, shape, write_safetensors

TINY: dict[str, Any] = shape(
    "Llama-3.1-8B",
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=256,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return tmp_path


def test_headers_and_configuration_tell_the_same(model: Path) -> None:
    computed = read_profile(model).weights
    write_safetensors(model / "model.safetensors", llama_tensors(TINY))
    read = read_profile(model).weights
    assert (computed.source, read.source) == ("config.json", "safetensors")
    assert read.layers == computed.layers
    assert (read.total, read.parameters, read.embedding, read.head, read.other) == (
        computed.total,
        computed.parameters,
        computed.embedding,
        computed.head,
        computed.other,
    )


def test_no_weight_is_read(model: Path) -> None:
    file = model / "model.safetensors"
    write_safetensors(file, llama_tensors(TINY))
    expected = read_profile(model)
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:header])
    with file.open("r+b") as stream:  # a hole in place of the weights
        stream.truncate(size)
    assert read_profile(model) == expected


def test_a_float32_checkpoint_is_loaded_in_16_bits(model: Path) -> None:
    write_safetensors(model / "model.safetensors", llama_tensors(TINY, "F32"))
    read = read_profile(model).weights
    assert read.total == 2 * read.parameters
    assert read_profile(model, "float32").weights.total == 4 * read.parameters


def test_shards_are_those_of_the_index(model: Path) -> None:
    tensors = llama_tensors(TINY)
    names = list(tensors)
    half = len(names) // 2
    parts = {"model-1.safetensors": names[:half], "model-2.safetensors": names[half:]}
    for file, mine in parts.items():
        write_safetensors(model / file, {name: tensors[name] for name in mine})
    write_safetensors(model / "consolidated.safetensors", tensors)  # the same once more, in Mistral's format
    index = {"weight_map": {name: file for file, mine in parts.items() for name in mine}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_profile(model).weights.total == 2 * read_profile(model).weights.parameters
    (model / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"not complete: model-2.safetensors is missing \(1 of the 2"):
        read_profile(model)


def test_an_index_without_its_files_leaves_the_configuration(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert read_profile(model).weights.source == "config.json"


def test_what_vllm_does_not_load_does_not_count(model: Path) -> None:
    tied = TINY | {"tie_word_embeddings": True}
    (model / "config.json").write_text(json.dumps(tied))
    tensors = llama_tensors(tied)
    write_safetensors(model / "model.safetensors", tensors)
    expected = read_profile(model).weights
    assert expected.tied
    draft = {"model.layers.3.mlp.up_proj.weight": ("BF16", (128, 64))}
    head = {"lm_head.weight": ("BF16", (256, 64))}
    write_safetensors(model / "model.safetensors", {**tensors, **draft, **head})
    assert read_profile(model).weights == expected


def test_a_quantised_checkpoint_counts_as_it_is_stored(model: Path) -> None:
    awq = TINY | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}}
    (model / "config.json").write_text(json.dumps(awq))
    tensors = llama_tensors(TINY)
    packed: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, size) in tensors.items():
        if "_proj" not in name:
            packed[name] = (dtype, size)
            continue
        base, (rows, columns) = name.removesuffix("weight"), size
        packed[f"{base}qweight"] = ("I32", (columns, rows // 8))
        packed[f"{base}qzeros"] = ("I32", (columns // 32, rows // 8))
        packed[f"{base}scales"] = ("F16", (columns // 32, rows))
    write_safetensors(model / "model.safetensors", packed)
    read, computed = read_profile(model).weights, read_profile(_only_config(model)).weights
    assert read.parameters == computed.parameters
    assert read.total == computed.total
    assert read.layers[0].kv == computed.layers[0].kv


def _only_config(model: Path) -> Path:
    copy = model / "copy"
    copy.mkdir()
    (copy / "config.json").write_bytes((model / "config.json").read_bytes())
    return copy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no safetensors file"),
        (b"\x05\0\0\0\0\0\0\0{}", "cut short"),
        (b"\x02\0\0\0\0\0\0\0{]", "no safetensors file, or is cut short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b'\x0f\0\0\0\0\0\0\0{"a":{"shape":1}', "cut short"),
        (b'\x11\0\0\0\0\0\0\0{"a":{"shape":1}}', "no sizes for a"),
    ],
)
def test_a_damaged_file_is_named(model: Path, content: bytes, message: str) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message) as raised:
        read_profile(model)
    assert "model.safetensors" in str(raised.value)


def test_weights_that_were_cut_off_are_told(model: Path) -> None:
    file = model / "model.safetensors"
    write_safetensors(file, llama_tensors(TINY))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is cut short"):
        read_profile(model)


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "no object"), ("{", "not JSON"), ("{}", "no `num_hidden_layers`")]
)
def test_a_damaged_configuration_is_named(model: Path, content: str, message: str) -> None:
    (model / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message) as raised:
        read_profile(model)
    assert str(model) in str(raised.value)


def test_a_directory_without_configuration_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_profile(tmp_path)
    with pytest.raises(ModelError, match="not a directory"):
        read_profile(tmp_path / "nope")


def test_a_hub_id_is_looked_for_in_the_cache_and_no_further(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="org/tiny is the id of a model on a hub that is not in"):
        find_model("org/tiny", tmp_path)
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert find_model("org/tiny", tmp_path) == snapshot
    newer = snapshot.with_name("aaa")
    newer.mkdir()
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("aaa\n")
    assert find_model("org/tiny", tmp_path) == newer
    with pytest.raises(ModelError, match="does not exist on this machine"):
        find_model(str(tmp_path / "nope"), tmp_path)
