import sys
from pathlib import Path

import pytest

from lib.pip import Pip, PipError, PipOutput, last_lines, run, unfinished
from lib.progress import Step

CONVERSATION = """\
Looking in links: /somewhere
Collecting torch==2.13.0
  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (28 kB)
  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190.5 MB)
"""


def feed(output: PipOutput, text: str) -> str:
    for line in text.splitlines(keepends=True):
        output.feed(line)
    return output.sentence()


def test_a_download_is_told_with_name_size_and_share() -> None:
    output = PipOutput()
    assert output.sentence() == "looking for packages"
    assert feed(output, CONVERSATION) == "downloading torch (190.5 MB)"
    assert feed(output, "Progress 95250000 of 190500000\n") == "downloading torch (190.5 MB), 50 %"
    more = "Collecting x\n  Downloading http://index/x_y-1.0-py3-none-any.whl (500 kB)\n"
    assert feed(output, more) == "downloading x-y (500 kB), file 2, 191.0 MB in all"


def test_unpacking_is_told_by_what_has_arrived() -> None:
    present = 10
    output = PipOutput(lambda: present)
    assert not output.unpacking
    feed(output, "Installing collected packages: a, b, c\n")
    assert output.unpacking
    present = 12
    assert output.sentence() == "unpacking 3 packages, 2 done"


def test_the_last_lines_are_without_noise() -> None:
    text = "one\nWARNING: Location 'x' is ignored\nERROR: No matching distribution found\n\n[notice] A new release\n"
    assert last_lines(text) == "one\nERROR: No matching distribution found"


def test_what_pip_says_is_recorded_and_its_failure_told() -> None:
    recorded: list[str] = []
    step, output = Step(), PipOutput()
    program = "import sys; print('Progress 1 of 2'); print('Collecting it'); sys.exit(len(sys.argv) - 4)"
    command = [sys.executable, "-c", program]
    run(command, step, output, recorded.append)
    assert recorded[1:] == ["Collecting it\n"]
    assert step.detail == output.sentence
    with pytest.raises(PipError, match="Collecting it"):
        run([*command, "one too many"], step, output, recorded.append)


def test_a_failure_while_unpacking_leaves_the_environment_marked(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    with (tmp_path / "log").open("w") as log:
        pip = Pip(tmp_path, log, tmp_path / "constraints.txt")
        for status, marked in ((1, True), (0, False)):
            python.write_text(f"#!/bin/sh\necho Installing collected packages: a\nexit {status}\n")
            python.chmod(0o755)
            try:
                pip.install(Step(), ["a"])
            except PipError:
                assert status == 1
            assert unfinished(tmp_path).exists() == marked
    assert "Installing collected" in (tmp_path / "log").read_text()
