from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.models.errors import ModelError
from shoal.models.profile import Profile
from shoal.node.known import hub_cache, known_models, profile_of
from support.configs import config
from support.models import shape


def test_the_hubs_cache_is_where_hugging_face_keeps_it() -> None:
    home = Path("~").expanduser()
    assert hub_cache({}) == home / ".cache/huggingface/hub"
    assert hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_cache({"HF_HOME": "/h", "XDG_CACHE_HOME": "/c"}) == Path("/h/hub")
    assert hub_cache({"HF_HUB_CACHE": "/x", "HF_HOME": "/h"}) == Path("/x")


def test_a_hub_id_is_found_where_the_models_own_environment_says(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--m" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(shape("Llama-3.1-8B")))
    c = config(f"nodes: [{{host: 127.0.0.1}}]\nmodel: {{path: org/m, env: {{HF_HUB_CACHE: {tmp_path}}}}}")
    assert profile_of(c.models[0], {"HF_HUB_CACHE": "/nowhere"}).architecture.layers == 32
    with pytest.raises(ModelError):
        profile_of(c.models[0].model_copy(update={"env": {}}), {"HF_HUB_CACHE": "/nowhere"})


def test_at_a_start_files_that_cannot_be_read_are_left_to_vllm(tmp_path: Path) -> None:
    good, damaged, gguf = (tmp_path / name for name in ("good", "damaged", "gguf"))
    for directory in (good, damaged, gguf):
        directory.mkdir()
    (good / "config.json").write_text(json.dumps(shape("Llama-3.1-8B")))
    (damaged / "config.json").write_text("{")
    (gguf / "model.gguf").write_bytes(b"x" * 7)
    c = config(
        f"""
        nodes: [{{host: 127.0.0.1}}]
        models:
          - {{path: {good}}}
          - {{path: {damaged}}}
          - {{path: {gguf}}}
          - {{path: org/elsewhere}}
          - {{path: x, engine: sim}}
        """
    )
    known = known_models(c, {"HF_HUB_CACHE": "/nowhere"})
    assert set(known) == {"good", "gguf"}
    assert isinstance(known["good"], Profile)
    assert known["gguf"] == 7
