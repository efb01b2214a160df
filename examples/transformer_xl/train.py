"""Train a small Transformer-XL on a text file: ``python train.py TEXT DIRECTORY [--steps 300]``.

Segments of a stream follow one another, so that the memory of the one before is what the next one attends to.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from model import Config, TransformerXL


def train(
    model: TransformerXL, text: bytes, steps: int, batch: int = 8, rate: float = 1e-3
) -> Iterator[float]:
    """Train for `steps` segments in `batch` streams through the text; yield each one's loss in nats per byte."""
    segment = model.config.segment
    streams = torch.tensor(list(text[: len(text) // batch * batch])).view(batch, -1)
    if streams.shape[1] <= segment + 1:
        raise ValueError(f"the text has {len(text)} bytes, {batch * (segment + 2)} are needed")
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    memory, at = model.no_memory(batch), 0
    model.train()
    for step in range(steps):
        if at + segment + 1 > streams.shape[1]:
            memory, at = model.no_memory(batch), 0
        loss, memory = model.loss(streams[:, at : at + segment + 1], memory)
        at += segment
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        yield float(loss.detach())
    model.eval()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Train a small Transformer-XL on a text file.")
    parser.add_argument("text", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = TransformerXL(Config())
    for step, loss in enumerate(train(model, options.text.read_bytes(), options.steps), 1):
        if step % 20 == 0 or step == options.steps:
            print(f"step {step} of {options.steps}: {loss / math.log(2):.2f} bits per byte", flush=True)
    model.save(options.directory)


if __name__ == "__main__":
    main()
