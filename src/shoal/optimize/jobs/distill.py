"""Distils: trains a smaller model to give the probabilities that a larger one gives (Hinton et al. 2015).

The loss is T² KL(teacher || student) at a temperature T, mixed with the plain cross-entropy of the text. A checkpoint
every so many steps holds all that training goes on from, so that an interrupted run and a whole one end the same.

What the teacher is good for shows beside the same student trained on the text alone, with equal steps, rows and
seed: that is what ``compare`` does.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from shoal.optimize.jobs.common import JobError, Report, blocks, load, perplexity, save, tokenizer_of
from shoal.optimize.jobs.prune import keep_layers

_HELD_OUT = 8
_WARM_UP = 0.05  # of all steps
_CHECKPOINT, _ALONE = "checkpoint.pt", "without-teacher.pt"


def run(given: dict[str, Any], report: Report) -> dict[str, Any]:
    """Train and save.

    Args:
        given: ``teacher``, ``student`` (directory, or None) or ``layers`` (how many of the teacher's to start from),
            ``out``, ``checkpoints`` (directory), ``text``, ``steps``, ``batch``, ``length``, ``rate``, ``temperature``,
            ``weight`` (the teacher's share of the loss, 0 to 1), ``compare`` (also train one without the teacher, and
            measure it), ``save_every``, ``seed``.
        report: hears how far it is.
    """
    torch.manual_seed(given["seed"])
    report("loads the models")
    tokenizer = tokenizer_of(given["teacher"])
    teacher = load(given["teacher"], torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    student = _beginner(given)
    if student.config.vocab_size != teacher.config.vocab_size:
        raise JobError(
            f"teacher and student must share their vocabulary: {teacher.config.vocab_size} and "
            f"{student.config.vocab_size} tokens; take a student of the same family, or --layers"
        )
    about = {"length": given["length"], "seed": given["seed"]}
    rows = blocks(tokenizer, given["text"], held_out=False, count=given["steps"] * given["batch"], **about)
    held_out = blocks(tokenizer, given["text"], held_out=True, count=_HELD_OUT, **about)
    report("measures perplexity")
    numbers = {"teacher": perplexity(teacher, held_out), "before": perplexity(student, held_out)}
    if given.get("compare"):
        del student  # three models at once are more memory than two
        alone = _beginner(given)
        train(None, alone, rows, given | {"weight": 0}, report)
        report("measures perplexity of the one without a teacher")
        numbers["without_teacher"] = perplexity(alone, held_out)
        del alone
        student = _beginner(given)
    started = train(teacher, student, rows, given, report)
    report("measures perplexity")
    numbers["after"] = perplexity(student, held_out)
    report("saves")
    save(student, given["teacher"], given["out"])
    parameters = [sum(p.numel() for p in m.parameters()) for m in (teacher, student)]
    return {"perplexity": numbers, "parameters": parameters, "resumed_at": started, "rows": len(rows)}


def _beginner(given: dict[str, Any]) -> Any:
    """Return the student before any training."""
    student = load(given["student"] or given["teacher"])
    if given["student"] is None:
        keep_layers(student, spread(len(student.model.layers), given["layers"]))
    return student


def spread(layers: int, keep: int) -> list[int]:
    """Return `keep` of `layers` places, evenly spread, the first and the last among them."""
    if keep == 1:
        return [0]
    return [round(i * (layers - 1) / (keep - 1)) for i in range(keep)]


def rate_at(step: int, steps: int, rate: float) -> float:
    """Return the learning rate of a step: up at first, then down along half a cosine."""
    warm = max(1, int(steps * _WARM_UP))
    if step < warm:
        return rate * (step + 1) / warm
    return rate * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def loss_of(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, weight: float) -> Tensor:
    """Return the loss in nats per token.

    Args:
        student: its scores, tokens x vocabulary.
        teacher: likewise.
        labels: the tokens that really follow.
        temperature: that both are softened with.
        weight: the teacher's share.
    """
    loss = student.new_zeros(())
    if weight < 1:
        loss = loss + (1 - weight) * functional.cross_entropy(student, labels)
    if weight > 0:
        soft = functional.kl_div(
            (student / temperature).log_softmax(-1),
            (teacher / temperature).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        loss = loss + weight * temperature**2 * soft
    return loss


def train(teacher: Any, student: Any, rows: Tensor, given: dict[str, Any], report: Report) -> int:
    """Train the student in place; return the step it began at.

    Args:
        teacher: None where its weight is 0.
        student: learns.
        rows: tokens.
        given: as for `run`.
        report: hears how far it is.
    """
    what, file = ("trains", _CHECKPOINT) if teacher is not None else ("trains without the teacher", _ALONE)
    steps, batch = given["steps"], given["batch"]
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=given["rate"], betas=(0.9, 0.95), weight_decay=0.01
    )
    checkpoint = Path(given["checkpoints"]) / file
    first = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True, map_location=student.device)
        student.load_state_dict(kept["student"])
        optimizer.load_state_dict(kept["optimizer"])
        first = kept["step"]
    student.train()
    saved = time.monotonic()
    for step in range(first, steps):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(given["seed"] + step))
        at = [(step * batch + i) % len(rows) for i in range(batch)]
        # Each row once before any comes again, then in a new order.
        chosen = at if step * batch + batch <= len(rows) else order[:batch].tolist()
        ids = rows[chosen].to(student.device)
        with torch.inference_mode():
            wanted = (
                teacher(input_ids=ids[:, :-1], use_cache=False).logits.flatten(0, 1).float()
                if given["weight"]
                else None
            )
        scores = student(input_ids=ids[:, :-1], use_cache=False).logits.flatten(0, 1).float()
        goal = scores.detach() if wanted is None else wanted.clone()
        loss = loss_of(scores, goal, ids[:, 1:].flatten(), given["temperature"], given["weight"])
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, given["rate"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        report(f"{what}, loss {float(loss.detach()):.2f}", step + 1, steps)
        # With two trainings the first one's end is gone on from, too.
        due = (step + 1) % given["save_every"] == 0 or time.monotonic() - saved > 300
        if (due and step + 1 < steps) or (file == _ALONE and step + 1 == steps):
            _keep(checkpoint, student, optimizer, step + 1)
            saved = time.monotonic()
    student.eval()
    return first


def _keep(checkpoint: Path, student: Any, optimizer: Any, step: int) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    new = checkpoint.with_suffix(".new")
    torch.save({"student": student.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, new)
    new.replace(checkpoint)
