"""What is deployed: packages and files."""

import subprocess
from pathlib import Path

import pytest

from shoal import __version__
from shoal.config import load
from shoal.deploy.agent import environment
from shoal.deploy.release import ReleaseError, environment_text, extras_for, installation, node_files

SECRET = "0123456789abcdef"


def wheels(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}-py3-none-any.whl").write_text(name)
    return folder


def test_by_default_pips_index_gives_the_version_of_this_program():
    wanted = installation(None, None, ("vllm",), ())
    assert (wanted.requirements, wanted.wheels) == ((f"shoal[vllm]=={__version__}",), ())
    assert wanted.id.startswith(f"{__version__}-")


def test_what_is_installed_decides_the_name_of_its_directory(tmp_path: Path):
    folder = wheels(tmp_path / "w", "shoal-1.2", "httpx-1")
    one = installation(folder, None, (), ())
    before = one.id
    assert (one.version, before) == ("1.2", installation(folder, None, (), ()).id)
    assert installation(folder, None, ("vllm",), ()).id != before
    (folder / "shoal-1.2-py3-none-any.whl").write_text("shoal-1.3")  # same name, same size, other content
    assert installation(folder, None, (), ()).id != before


def test_a_directory_without_a_wheel_of_shoal_or_with_several_is_refused(tmp_path: Path):
    with pytest.raises(ReleaseError, match="none of Shoal"):
        installation(wheels(tmp_path / "a", "httpx-1"), None, (), ())
    both = wheels(tmp_path / "b", "shoal-1.1", "shoal-1.2")
    with pytest.raises(ReleaseError, match=r"1\.1, 1\.2"):
        installation(both, None, (), ())
    chosen = installation(both, "1.1", (), ())
    assert [w.name.split("-")[1] for w in chosen.wheels] == ["1.1"]


@pytest.mark.parametrize(
    ("engine", "extras"),
    [("engine: vllm", ("vllm",)), ("engine: sim", ())],
)
def test_vllm_comes_along_where_it_is_used(tmp_path: Path, engine: str, extras: tuple[str, ...]):
    path = tmp_path / "c.yaml"
    path.write_text(f"nodes: [{{host: 127.0.0.1}}]\nmodel: {{path: /m, {engine}}}\n")
    assert extras_for(load(path, {"HOME": "/h"})) == extras
    path.write_text(path.read_text() + "engines: {python: /opt/vllm/bin/python}\n")
    assert extras_for(load(path, {"HOME": "/h"})) == ()


def test_a_node_gets_the_file_as_it_is_the_variables_it_needs_and_what_stands_beside_it(tmp_path: Path):
    text = (
        "nodes: [{host: 10.0.0.1}]\nmodel: {path: '${MODELS}/m', engine: sim}\nstate_dir: ${HOME}/shoal\n"
        "gateway: {keys: {file: keys.yaml}}\ncluster: {secret: '${SHOAL_SECRET}'}\n"
    )
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "keys.yaml").write_text("keys: []\n")
    env = {"MODELS": "/models", "HOME": "/home/me", "SHOAL_SECRET": SECRET, "HF_TOKEN": "t", "OTHER": "o"}
    files = node_files(load(tmp_path / "c.yaml", env), ["HF_TOKEN"], env)
    assert files.content["cluster.yaml"].decode() == text
    assert files.content["keys.yaml"] == b"keys: []\n"
    variables = files.content["environment"].decode().split()
    assert variables == ['HF_TOKEN="t"', 'MODELS="/models"', f'SHOAL_SECRET="{SECRET}"']
    with pytest.raises(ReleaseError, match="NOT_THERE"):
        node_files(load(tmp_path / "c.yaml", env), ["NOT_THERE"], env)


def test_an_environment_file_means_the_same_to_a_shell_and_to_the_agent(tmp_path: Path):
    value = """a "b" 'c' $HOME `id` \\ d=e#f ü"""
    path = tmp_path / "environment"
    path.write_text(environment_text({"VALUE": value, "EMPTY": ""}))
    assert environment(path) == {"VALUE": value, "EMPTY": ""}
    shell = f'. {path}; printf %s "$VALUE"'
    assert (
        subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True).stdout == value
    )
    with pytest.raises(ReleaseError, match="TWO_LINES"):
        environment_text({"TWO_LINES": "a\nb"})
