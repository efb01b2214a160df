import sys

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
