"""What the jobs share: loading, saving, texts as tokens, perplexity."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from shoal.optimize.texts import TextError, read_texts

Report = Callable[..., None]


class JobError(Exception):
    """The job cannot be done; the message is one line that says what to do."""


def load(path: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return the model in a directory, for evaluation, on the GPU if there is one.

    Raises:
        JobError: Transformers cannot load it.
    """
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise JobError(
            f"{path} cannot be loaded by Transformers {transformers.__version__}: {reason}"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device)


def tokenizer_of(path: str) -> Any:
    """Return the tokenizer in a model's directory.

    Raises:
        JobError: there is none.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise JobError(
            f"{path} has no tokenizer that can be loaded; copy it from the original model"
        ) from error


def blocks(
    tokenizer: Any, file: str | None, *, held_out: bool, length: int, count: int, seed: int = 0
) -> torch.Tensor:
    """Return texts as tokens: `count` rows (fewer if there is no more) of `length`, texts one after the other.

    Raises:
        JobError: there is too little text.
    """
    try:
        texts = read_texts(Path(file) if file else None, held_out=held_out)
    except TextError as error:
        raise JobError(str(error)) from error
    random.Random(seed).shuffle(texts)
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    tokens: list[int] = []
    for text in texts:
        if len(tokens) >= count * length:
            break
        tokens += tokenizer(text, add_special_tokens=False)["input_ids"] + end
    rows = min(count, len(tokens) // length)
    if rows == 0:
        raise JobError(
            f"{file or 'the texts'} have {len(tokens)} tokens, {length} are needed at least; give more text"
        )
    return torch.tensor(tokens[: rows * length]).view(rows, length)


def perplexity(model: Any, rows: torch.Tensor) -> float:
    """Return e to the mean loss in nats per token."""
    loss = 0.0
    with torch.inference_mode():
        for row in rows:
            ids = row[None].to(model.device)
            loss += float(model(input_ids=ids, labels=ids).loss)
    return math.exp(loss / len(rows))


def save(model: Any, source: str, out: str) -> None:
    """Write a model as safetensors in bfloat16, with the tokenizer of the one it was made from."""
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer_of(source).save_pretrained(out)
