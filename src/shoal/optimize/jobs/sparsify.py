"""Sets single weights to zero, with llmcompressor: a study of what a model can do without, and no way to speed.

SparseGPT (Frantar and Alistarh 2023, https://arxiv.org/abs/2301.00774) has the weights that stay make up for those that
go; Wanda (Sun et al. 2023, https://arxiv.org/abs/2306.11695) only chooses, by weight times activation. The result is an
ordinary checkpoint, with zeros in it.
"""

from __future__ import annotations

from typing import Any

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier

from shoal.optimize.jobs.common import JobError, Report, blocks, load, perplexity, save, tokenizer_of
from shoal.optimize.jobs.quantize import as_dataset, layers_told

_HELD_OUT = 8
_MODIFIERS = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}


def run(given: dict[str, Any], report: Report) -> dict[str, Any]:
    """Set weights to zero and save.

    Args:
        given: ``model``, ``out``, ``share`` (of the weights of linear layers), ``pattern`` (``2:4``, or ``0:0`` for
            none), ``method``, ``text``, ``samples``, ``length``, ``seed``.
        report: hears how far it is.
    """
    torch.manual_seed(given["seed"])
    report("loads the model")
    model = load(given["model"])
    tokenizer = tokenizer_of(given["model"])
    about = {"length": given["length"], "seed": given["seed"]}
    rows = blocks(tokenizer, given["text"], held_out=False, count=given["samples"], **about)
    held_out = blocks(tokenizer, given["text"], held_out=True, count=_HELD_OUT, **about)
    report("measures perplexity")
    first = perplexity(model, held_out)
    recipe = _MODIFIERS[given["method"]](
        sparsity=given["share"], mask_structure=given["pattern"], targets=["Linear"], ignore=["lm_head"]
    )
    try:
        with layers_told("sets weights to zero", model.config.num_hidden_layers, report):
            oneshot(
                model=model,
                tokenizer=tokenizer,
                recipe=recipe,
                dataset=as_dataset(rows),
                num_calibration_samples=len(rows),
                max_seq_length=given["length"],
                shuffle_calibration_samples=False,
            )
    except ValueError as error:
        raise JobError(f"llmcompressor refuses it: {next(iter(str(error).splitlines()), '')}") from error
    report("measures perplexity")
    last = perplexity(model, held_out)
    report("saves")
    save(model, given["model"], given["out"])
    return {"perplexity": [first, last], "zeros": _zeros(model), "samples": len(rows)}


def _zeros(model: Any) -> float:
    """Return the share of zeros in the linear layers."""
    weights = [
        m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n
    ]
    return float(sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights))
