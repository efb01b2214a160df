"""Quantises a model with llmcompressor, into a checkpoint (compressed-tensors) that vLLM loads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from loguru import logger

from shoal.optimize.jobs.common import JobError, Report, blocks, load, tokenizer_of

_LAYER = re.compile(r"\.layers\.\d+\.")
_SMOOTHING = 0.8  # of the range that goes to the weights, as llmcompressor's own recipes for Llama have it
_IGNORE = ["lm_head"]  # vLLM keeps it in 16 bits; with tied embeddings it is the embedding itself


def run(given: dict[str, Any], report: Report) -> dict[str, Any]:
    """Quantise and save.

    Args:
        given: ``model``, ``out``, ``scheme``, ``group_size``, ``symmetric``, ``text``, ``samples``, ``length``,
            ``seed``, ``method``.
        report: hears how far it is.
    """
    torch.manual_seed(given["seed"])
    report("loads the model")
    method = given["method"]
    model = load(given["model"], _dtype(method))
    tokenizer = tokenizer_of(given["model"])
    rows = None
    if method != "rtn":
        rows = blocks(
            tokenizer,
            given["text"],
            held_out=False,
            length=given["length"],
            count=given["samples"],
            seed=given["seed"],
        )
    report("quantises", 0, 0)
    try:
        with layers_told("quantises", model.config.num_hidden_layers, report):
            oneshot(
                model=model,
                tokenizer=tokenizer,
                recipe=_recipe(given, method),
                dataset=as_dataset(rows),
                num_calibration_samples=len(rows) if rows is not None else 1,
                max_seq_length=given["length"],
                shuffle_calibration_samples=False,
            )
    except ValueError as error:
        raise JobError(f"llmcompressor refuses it: {next(iter(str(error).splitlines()), '')}") from error
    report("saves")
    model.to(torch.bfloat16).save_pretrained(given["out"], save_compressed=True)
    tokenizer.save_pretrained(given["out"])
    return {"samples": 0 if rows is None else len(rows), "device": str(model.device)}


def _dtype(method: str) -> torch.dtype:
    """Return what the model computes in meanwhile; it is always saved in bfloat16."""
    # Many CPUs do not multiply in bfloat16: with AVX2 alone, large products take 8 times as long in it.
    on_text = method != "rtn" and not torch.cuda.is_available()
    return torch.float32 if on_text else torch.bfloat16


def _recipe(given: dict[str, Any], method: str) -> Any:
    scheme, group = given["scheme"], given["group_size"]
    make = GPTQModifier if method == "gptq" else QuantizationModifier
    if scheme == "fp8":
        return QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=_IGNORE)
    if scheme == "w8a8":
        rounding = make(targets="Linear", scheme="W8A8", ignore=_IGNORE)
        # Activations have outliers, weights have none: part of their range is moved over before both are rounded.
        return (
            [SmoothQuantModifier(smoothing_strength=_SMOOTHING), rounding] if method == "gptq" else rounding
        )
    weights = QuantizationArgs(
        num_bits=4,
        type="int",
        symmetric=given["symmetric"],
        dynamic=False,
        strategy="group" if group else "channel",
        group_size=group,
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    return make(config_groups=groups, ignore=_IGNORE)


def as_dataset(rows: torch.Tensor | None) -> Dataset | None:
    """Return rows of tokens as llmcompressor takes them; None for none."""
    if rows is None:
        return None
    return Dataset.from_dict({"input_ids": rows.tolist(), "attention_mask": torch.ones_like(rows).tolist()})


@contextmanager
def layers_told(what: str, layers: int, report: Report) -> Iterator[None]:
    """Report each layer that llmcompressor comes to, as its log tells."""
    seen: set[str] = set()

    def take(message: str) -> None:
        if (found := _LAYER.search(message)) and found[0] not in seen:
            report(f"{what} layer by layer", len(seen), layers)
            seen.add(found[0])

    sink = logger.add(take)
    try:
        yield
    finally:
        logger.remove(sink)
