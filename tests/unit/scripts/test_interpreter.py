import sys
from pathlib import Path

from lib import interpreter


def test_the_running_python_is_taken_when_it_will_do() -> None:
    assert interpreter.find((3, 12)) == sys.executable


def test_another_python_is_looked_for_when_the_running_one_is_too_old_or_too_new() -> None:
    versions = {"/bin/python3.13": (3, 13), "/bin/python3.12": None, "/bin/python3": (3, 9)}

    def which(name: str) -> str | None:
        return f"/bin/{name}" if f"/bin/{name}" in versions else None

    # A shim of a version manager is on the PATH and does not run: version None.
    assert interpreter.find((3, 9), which, versions.get) == "/bin/python3.13"
    assert interpreter.find((3, 15), which, versions.get) == "/bin/python3.13"
    assert interpreter.find((3, 9), lambda _: None, versions.get) is None


def test_a_python_that_does_not_run_has_no_version() -> None:
    assert interpreter.version_of("/nowhere/python3") is None
    assert interpreter.version_of("true") is None
    assert interpreter.version_of(sys.executable) == sys.version_info[:2]


def test_a_much_faster_python_is_found_and_one_that_is_hardly_faster_is_not() -> None:
    times = {"/built/python3": 1.5, "/usr/bin/python3": 1.0, "/usr/bin/python3.9": 0.1, "/broken": None}
    versions = {"/built/python3": (3, 11), "/usr/bin/python3": (3, 11), "/usr/bin/python3.9": (3, 9)}

    def faster(current: str) -> tuple[str, float] | None:
        return interpreter.faster(current, [*times], versions.get, times.get)

    assert faster("/built/python3") == ("/usr/bin/python3", 1.5)
    assert faster("/usr/bin/python3") is None
    assert faster("/broken") is None
    times["/built/python3"] = 1.1
    assert faster("/built/python3") is None


def test_each_python_that_is_installed_is_named_once(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    program = first / "python3.12"
    program.write_text("")
    program.chmod(0o755)
    (first / "python3").symlink_to(program)
    (second / "python3").symlink_to(program)
    (second / "python3.11").symlink_to(sys.executable)
    (second / "python3.13").write_text("no program")
    assert interpreter.installed([str(first), str(second)]) == [str(program), str(second / "python3.11")]


def test_a_python_tells_how_long_it_takes() -> None:
    found = interpreter.seconds_of(sys.executable)
    assert found is not None
    assert 0 < found < 1
    assert interpreter.seconds_of("true") is None
    assert interpreter.seconds_of("/nowhere/python3") is None
