"""Names, types and sizes of the tensors in safetensors files, from their headers: no weight is read.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of the header, little-endian, then a
JSON object ``{name: {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shoal.models.errors import ModelError

_MAX_HEADER = 100_000_000  # the format's own limit
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class Tensor(msgspec.Struct, frozen=True):
    """A tensor of a checkpoint.

    Attributes:
        name: as in ``model.layers.0.self_attn.q_proj.weight``.
        dtype: of the format: ``BF16``, ``F8_E4M3``, ``I32``, ``U8`` and so on.
        elements: how many numbers it stores; packed ones count once per stored number.
        stored: bytes in the file.
    """

    name: str
    dtype: str
    elements: int
    stored: int


def files(directory: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a model: those its index names, else all in the directory.

    Raises:
        ModelError: the index is not JSON, or names files that are not there.
    """
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(directory.glob("*.safetensors"))
        # Mistral's own format of the same weights, beside the usual one.
        usual = [f for f in found if not f.name.startswith("consolidated")]
        return tuple(usual or found)
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} cannot be read as the index of a checkpoint: {error!r}") from None
    paths = tuple(directory / str(name) for name in names)
    missing = [path.name for path in paths if not path.is_file()]
    if missing and len(missing) < len(paths):
        raise ModelError(
            f"{directory} is not complete: {missing[0]} is missing ({len(missing)} of the {len(paths)} files that "
            "model.safetensors.index.json names). Copy or download it again."
        )
    return () if missing else paths


def tensors(file: Path) -> Iterator[Tensor]:
    """Yield the tensors of one file.

    Raises:
        ModelError: it is no safetensors file, or is cut short.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise ModelError(f"{file} is no safetensors file{_pointer(file)}")
            header = json.loads(stream.read(length))
        size = file.stat().st_size - 8 - length
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ModelError(f"{file} is no safetensors file, or is cut short") from None
    end = 0
    for name, entry in header.items() if isinstance(header, dict) else ():
        if name == "__metadata__":
            continue
        try:
            begin, end_of_tensor = entry["data_offsets"]
            tensor = Tensor(name, str(entry["dtype"]), math.prod(entry["shape"]), end_of_tensor - begin)
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"{file}: the header has no sizes for {name}") from None
        end = max(end, end_of_tensor)
        yield tensor
    if end > size:
        raise ModelError(
            f"{file} is cut short: {size} bytes of tensors, its header tells of {end}. Copy it again."
        )


def _pointer(file: Path) -> str:
    """Return what a file that Git LFS left in place of the weights is called."""
    with file.open("rb") as stream:
        start = stream.read(64)
    return (
        ": it is a pointer of Git LFS, run `git lfs pull`"
        if start.startswith(b"version https://git-lfs")
        else ""
    )
