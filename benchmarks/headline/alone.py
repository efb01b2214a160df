"""A batch as teams do it before they have a serving system: one prompt after the other with transformers.

``python -m benchmarks.headline.alone MODEL`` reads ``{"prompts": [...], "tokens": 64}`` from its standard input and
prints ``{"seconds": ..., "tokens": ..., "threads": ...}``, without the time it takes to load the model. It has the
whole machine, and one thread or as many as there are cores, whatever is faster.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

_TRIAL = 8  # tokens


def main() -> None:
    """Do it, and tell how long it took."""
    path, work = Path(sys.argv[1]), json.load(sys.stdin)
    words = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype="auto")
    prompts, tokens = work["prompts"], work["tokens"]
    threads = min((1, len(os.sched_getaffinity(0))), key=lambda n: trial(model, words, prompts[0], n))
    torch.set_num_threads(threads)
    begun = time.perf_counter()
    made = sum(generate(model, words, prompt, tokens) for prompt in prompts)
    json.dump({"seconds": time.perf_counter() - begun, "tokens": made, "threads": threads}, sys.stdout)


def trial(model: Any, words: Any, prompt: str, threads: int) -> float:
    """Return the seconds of a short answer with so many threads."""
    torch.set_num_threads(threads)
    generate(model, words, prompt, _TRIAL)  # what is set up at the first use is no part of the work
    begun = time.perf_counter()
    generate(model, words, prompt, _TRIAL)
    return time.perf_counter() - begun


def generate(model: Any, words: Any, prompt: str, tokens: int) -> int:
    """Answer a prompt greedily with exactly `tokens` tokens, and return how many those were."""
    chat = [{"role": "user", "content": prompt}]
    given = words.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**given, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)
    length = made.shape[1] - given["input_ids"].shape[1]
    words.decode(made[0, -length:], skip_special_tokens=True)
    return int(length)


if __name__ == "__main__":
    main()
