"""What pruning and distilling compute, on small models with random weights, in this process."""

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from shoal.optimize.jobs import common, distill, prune  # noqa: E402
from shoal.optimize.jobs.common import JobError, blocks, tokenizer_of  # noqa: E402

ROWS = torch.randint(0, 256, (4, 24), generator=torch.Generator().manual_seed(1))


def quiet(*_: Any) -> None:
    pass


def small(kind: str = "llama", **changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8}
    shape |= {"num_key_value_heads": 4, "vocab_size": 256, "max_position_embeddings": 128, "head_dim": 8}
    config = transformers.AutoConfig.for_model(kind, **shape | changes)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def scores(model: Any) -> Any:
    with torch.inference_mode():
        return model(input_ids=ROWS, use_cache=False).logits


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_what_does_nothing_goes_first_and_nothing_changes(kind: str):
    model = small(kind)
    with torch.no_grad():
        for layer in model.model.layers:
            dead = torch.arange(0, 128, 2)
            layer.mlp.down_proj.weight[:, dead] = 0
            layer.self_attn.o_proj.weight[:, 16:32] = 0  # the second of four groups of two heads
    wanted = scores(model)
    made = prune.narrow(model, ROWS, 1, 64, quiet)
    shape = made.config
    assert (shape.intermediate_size, shape.num_key_value_heads, shape.num_attention_heads) == (64, 3, 6)
    assert torch.allclose(scores(made), wanted, atol=1e-5)


def test_the_layer_that_turns_the_states_least_goes_first(tmp_path: Path):
    model = small()
    with torch.no_grad():
        for part in (model.model.layers[2].mlp.down_proj, model.model.layers[2].self_attn.o_proj):
            part.weight.zero_()
    wanted = scores(model)
    assert prune.remove_layers(model, ROWS, 1, quiet) == [2]
    assert torch.allclose(scores(model), wanted, atol=1e-5)
    assert prune.remove_layers(model, ROWS, 2, quiet) != []
    assert model.config.num_hidden_layers == 1
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(scores(again), scores(model), atol=1e-5)
    # With a cache too: the layers left have places of their own in it.
    assert model.generate(ROWS[:1], max_new_tokens=4, do_sample=False).shape == (1, 28)


def test_heads_that_would_leave_none_are_refused():
    with pytest.raises(JobError, match="at least one must stay"):
        prune.narrow(small(), ROWS, 4, 128, quiet)


@pytest.mark.parametrize(
    ("size", "share", "kept"),
    [(1536, 0.25, 1152), (1536, 0.3, 1088), (128, 0.9, 64), (100, 0.25, 75), (64, 0.5, 32)],
)
def test_channels_are_kept_in_numbers_that_kernels_like(size: int, share: float, kept: int):
    assert prune.kept_channels(size, share) == kept


def test_the_loss_is_nothing_for_who_agrees_and_the_texts_own_without_a_teacher():
    student, teacher = torch.randn(5, 9), torch.randn(5, 9)
    labels = torch.randint(0, 9, (5,))
    assert float(distill.loss_of(teacher, teacher, labels, 2.0, 1.0)) == pytest.approx(0, abs=1e-6)
    plain = torch.nn.functional.cross_entropy(student, labels)
    assert torch.allclose(distill.loss_of(student, teacher, labels, 2.0, 0.0), plain)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    kl = (p * (p / q).log()).sum(1).mean() * 4
    assert torch.allclose(distill.loss_of(student, teacher, labels, 2.0, 0.5), (plain + kl) / 2)


def test_layers_are_spread_evenly_and_the_rate_rises_and_falls():
    assert distill.spread(30, 15)[0] == 0
    assert distill.spread(30, 15)[-1] == 29
    assert len(set(distill.spread(30, 15))) == 15
    assert distill.spread(4, 1) == [0]
    rates = [distill.rate_at(step, 100, 1.0) for step in range(100)]
    assert rates[0] < rates[4] == max(rates)
    assert rates[99] < 0.01


def test_an_interrupted_training_ends_as_a_whole_one(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = tokenizer_of(str(model_path))
    for module in (common, distill):  # to read its 49,152 words takes longer than all training here
        monkeypatch.setattr(module, "tokenizer_of", lambda _: tokenizer)
    teacher = small(vocab_size=len(tokenizer), num_hidden_layers=3)
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    given = {
        "teacher": str(tmp_path / "teacher"), "student": None, "layers": 2, "text": None, "steps": 6, "batch": 2,
        "length": 16, "rate": 1e-3, "temperature": 1.0, "weight": 0.9, "save_every": 2, "seed": 3,
    }  # fmt: skip
    results = {}
    for name in ("whole", "parts"):
        about = given | {"out": str(tmp_path / name), "checkpoints": str(tmp_path / f"{name}.checkpoints")}
        if name == "parts":

            def stop(what: str, done: int = 0, of: int = 0) -> None:
                if what.startswith("trains") and done == 5:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                distill.run(about, stop)
        results[name] = distill.run(about, quiet)
    assert (results["whole"]["resumed_at"], results["parts"]["resumed_at"]) == (0, 4)
    models = [transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in results]
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name


def test_a_teachers_scores_pull_the_student_towards_it():
    teacher = small()
    student = copy.deepcopy(teacher)
    distill.keep_layers(student, distill.spread(4, 2))
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = distill.loss_of(
            student(input_ids=ROWS).logits.flatten(0, 1),
            scores(teacher).clone().flatten(0, 1),
            ROWS.flatten(),
            1.0,
            1.0,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def sampled(model: Any, count: int, length: int) -> Any:
    """Return texts that a model writes: of these no other one can know more."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, model.config.vocab_size, (count, 1), generator=generator)
    with torch.inference_mode():
        while rows.shape[1] < length:
            chances = model(input_ids=rows, use_cache=False).logits[:, -1].softmax(-1)
            rows = torch.cat([rows, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return rows


def test_with_a_teacher_a_student_learns_more_in_equal_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teacher = small(vocab_size=64, initializer_range=0.3)
    rows = sampled(teacher, 96, 32)
    teacher.save_pretrained(tmp_path)
    # The words are numbers here.
    monkeypatch.setattr(distill, "tokenizer_of", lambda _: None)
    monkeypatch.setattr(distill, "blocks", lambda *_, held_out, **__: rows[:16] if held_out else rows[16:])
    monkeypatch.setattr(distill, "save", lambda *_: None)
    given = {
        "teacher": str(tmp_path), "student": None, "layers": 2, "text": None, "steps": 20, "batch": 2, "length": 32,
        "rate": 1e-2, "temperature": 1.0, "weight": 0.9, "compare": True, "save_every": 50, "seed": 0,
        "out": "", "checkpoints": str(tmp_path / "checkpoints"),
    }  # fmt: skip
    told: list[str] = []

    def stop(what: str, *_: int) -> None:
        if what.startswith("trains, "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill.run(given, stop)
    numbers = distill.run(given, lambda what, *_: told.append(what))["perplexity"]
    assert numbers["teacher"] < numbers["after"] < min(numbers["before"], 0.9 * numbers["without_teacher"])
    # What was done before the interruption is not done again.
    assert not any(what.startswith("trains without the teacher") for what in told)


def test_too_little_text_is_told(tmp_path: Path, model_path: Path):
    file = tmp_path / "t.txt"
    file.write_text("\n\n".join(f"{i} " + "word " * 60 for i in range(4)))
    with pytest.raises(JobError, match="tokens, 4096 are needed at least; give more text"):
        blocks(tokenizer_of(str(model_path)), str(file), held_out=False, length=4096, count=1)
