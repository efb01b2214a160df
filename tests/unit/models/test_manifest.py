import hashlib
import os
from pathlib import Path

import pytest

from shoal.models.errors import ModelError
from shoal.models.manifest import Entry, Hashes, Manifest, Stopped, differences, manifest_of, names_in


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / ".cache").mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "sub" / "w.safetensors").write_bytes(b"weights")
    (directory / ".gitattributes").write_text("x")
    (directory / ".cache" / "y").write_text("y")
    return directory


def test_a_manifest_names_every_file_that_is_not_hidden(model: Path, tmp_path: Path):
    found = manifest_of(model, Hashes(tmp_path / "hashes.json"))
    assert set(found.files) == {"config.json", "sub/w.safetensors"}
    assert found.files["sub/w.safetensors"] == Entry(7, hashlib.sha256(b"weights").hexdigest())
    assert found.size == 9
    # As anybody can compute it: sha256sum of the files, in order of their names.
    lines = "".join(f"{found.files[n].sha256}  {n}\n" for n in sorted(found.files))
    assert found.digest() == hashlib.sha256(lines.encode()).hexdigest()


def test_files_are_read_again_only_when_they_changed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = tmp_path / "hashes.json"
    first = manifest_of(model, Hashes(store))
    read: list[str] = []
    whole = Path.open

    def noting(self: Path, *args: object, **more: object) -> object:
        read.append(self.name)
        return whole(self, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", noting)
    assert manifest_of(model, Hashes(store)) == first
    assert "w.safetensors" not in read
    file = model / "sub" / "w.safetensors"
    kept = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns + 1))
    assert manifest_of(model, Hashes(store)) != first
    assert "w.safetensors" in read


def test_a_damaged_store_only_costs_reading_again(model: Path, tmp_path: Path):
    store = tmp_path / "hashes.json"
    first = manifest_of(model, Hashes(store))
    store.write_text("{")
    assert manifest_of(model, Hashes(store)) == first


def test_hashing_can_be_stopped(model: Path, tmp_path: Path):
    with pytest.raises(Stopped):
        manifest_of(model, Hashes(tmp_path / "h"), lambda: True)


def test_what_is_no_model_is_told(tmp_path: Path):
    with pytest.raises(ModelError, match="holds no files"):
        names_in(tmp_path)


def test_differences_name_what_is_wrong_missing_and_too_much():
    right = Manifest({"a": Entry(1, "x"), "b": Entry(1, "y")})
    found = Manifest({"a": Entry(1, "x"), "b": Entry(1, "z"), "c": Entry(1, "y")})
    assert differences(found.files, right.files) == ["b", "c"]
