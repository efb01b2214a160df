import re
import subprocess
import sys
from pathlib import Path

import pytest

import setup_env
from lib import interpreter, machine
from setup_env import SetupError, key_of, missing, must_start_afresh, parse_extras, requirements_without_torch


@pytest.fixture(autouse=True)
def faster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Other Pythons on this machine, and how many times as fast they are: none, so nothing is measured."""
    found: dict[str, float] = {}
    monkeypatch.setattr(interpreter, "faster", lambda: next(iter(found.items()), None))
    return found


def test_the_key_follows_every_file_and_every_text(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text("one")
    first = key_of([file], "here")
    assert key_of([file], "here") == first
    assert key_of([file], "there") != first
    file.write_text("two")
    assert key_of([file], "here") != first


def test_only_extras_of_another_key_are_missing() -> None:
    stamp = {"dev": "new", "cpu": "old"}
    assert missing(["dev"], stamp, "new") == []
    assert missing(["dev", "cpu", "demo"], stamp, "new") == ["cpu", "demo"]


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_an_illegible_stamp_counts_as_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "stamp"
    file.write_text(content)
    assert setup_env.read_stamp(file) == {}
    assert setup_env.read_stamp(tmp_path / "nothing") == {}


def test_the_other_build_of_vllm_means_a_new_environment() -> None:
    assert must_start_afresh(["dev", "vllm"], {"cpu": "k", "dev": "k"})
    assert not must_start_afresh(["dev", "cpu"], {"cpu": "k"})
    assert not must_start_afresh(["dev"], {"cpu": "k"})


def test_the_torch_family_and_extras_are_left_out_of_the_requirements() -> None:
    rest, torch = requirements_without_torch(
        [
            'torch==2.13.0+cpu; platform_machine == "x86_64"',
            'torch==2.13.0; platform_system == "Darwin"',
            "torchaudio",
            'torchvision; platform_machine != "riscv64"',
            "torchcodec>=0.14",
            'six>=1.16.0; python_version > "3.11"',
            'zentorch==2.13.0.1; extra == "zen"',
            "fastapi[standard]<0.137.0,>=0.133.0",
        ]
    )
    assert rest == ['six>=1.16.0; python_version > "3.11"', "fastapi[standard]<0.137.0,>=0.133.0"]
    assert torch == "torch==2.13.0"


def test_auto_becomes_the_build_that_fits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "query_gpus", lambda: [])
    assert parse_extras("dev, auto") == ["cpu", "dev"]
    monkeypatch.setattr(machine, "query_gpus", lambda: [machine.Gpu("NVIDIA L4", (8, 9), 580)])
    assert parse_extras("dev,auto") == ["dev", "vllm"]


def test_unknown_extras_and_both_builds_are_refused() -> None:
    with pytest.raises(SetupError, match=r"'gpu'.*vllm"):
        parse_extras("gpu")
    with pytest.raises(SetupError, match="name one"):
        parse_extras("cpu,vllm")


def test_a_folder_with_other_things_is_never_taken_for_an_environment(tmp_path: Path) -> None:
    setup_env.check_folder(tmp_path / "new")
    setup_env.check_folder(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SetupError, match="no virtual environment"):
        setup_env.check_folder(tmp_path)
    (tmp_path / "pyvenv.cfg").touch()
    setup_env.check_folder(tmp_path)


def test_nothing_is_done_when_the_stamp_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[list[str]] = []
    monkeypatch.setattr(setup_env, "install", lambda _, extras, __: installed.append(list(extras)))
    for extras in (["dev"], ["dev"], ["cpu", "dev"], ["cpu"], []):
        setup_env.set_up(tmp_path / "env", extras)
    assert installed == [["dev"], ["cpu", "dev"]]


def test_a_faster_python_is_named_or_taken_when_an_environment_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    faster: dict[str, float],
) -> None:
    def replace(path: str, arguments: list[str]) -> None:
        assert arguments == [path, *sys.argv]
        raise SystemExit(path)

    def make(environment: Path, *_: object) -> None:
        (environment / "bin").mkdir(exist_ok=True)
        (environment / "pyvenv.cfg").touch()

    monkeypatch.setattr("os.execv", replace)
    monkeypatch.setattr(setup_env, "install", make)
    setup_env.set_up(tmp_path / "first", [], fastest=True)
    assert "times as fast" not in capsys.readouterr().out
    faster["/usr/bin/python3"] = 1.5
    setup_env.set_up(tmp_path / "second", [])
    assert "1.5 times as fast" in (said := capsys.readouterr().out)
    assert "PYTHON=/usr/bin/python3" in said
    with pytest.raises(SystemExit, match="/usr/bin/python3"):
        setup_env.set_up(tmp_path / "third", [], fastest=True)
    capsys.readouterr()
    setup_env.set_up(tmp_path / "first", ["dev"], fastest=True)  # it is there: its Python stays
    assert "times as fast" not in capsys.readouterr().out


def test_an_interrupted_environment_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "env"
    monkeypatch.setattr(setup_env, "install", lambda *_: None)
    setup_env.set_up(environment, ["dev"])
    (environment / "pyvenv.cfg").touch()
    (environment / "half").touch()
    setup_env.unfinished(environment).touch()
    setup_env.set_up(environment, ["dev"])
    assert sorted(p.name for p in environment.iterdir()) == ["setup.json", "setup.log"]


def test_it_runs_in_an_interpreter_without_any_package() -> None:
    # -I -S: no site-packages, no environment; the script's folder is on the path as when it is run directly.
    folder = Path(setup_env.__file__).parent
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); import setup_env; setup_env.main(['--help'])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    assert "--extras" in done.stdout


def test_the_makefile_asks_for_extras_that_there_are():
    makefile = (setup_env.ROOT / "Makefile").read_text().replace("$(ENGINE)", "cpu")
    asked = re.findall(r"^\t@\$\(SETUP\) (\S+)", makefile, re.MULTILINE)
    assert len(asked) > 10
    for extras in asked:
        parse_extras(extras.strip("'"))
