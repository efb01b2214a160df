"""The commands that the documentation shows: found, and run as a reader would, against simulated nodes of this machine.

A block is run unless an HTML comment right before it says why not: ``<!-- not run: needs a GPU -->``.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from shoal.cli.control import NoAnswer, ask
from support.ports import free_ports
from support.wait import wait_until

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in (*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_COMMAND = re.compile(r"(?:[A-Z_]+=\S* )*(?:shoal|make|curl|python3?|pip|openssl|prometheus|\. |cd |export )")
SECRET = "0123456789abcdef0123456789abcdef"
_MARK = "TESTED_DOCUMENTATION"


@dataclass(frozen=True)
class Block:
    """A block of commands.

    Attributes:
        page: file it is in.
        line: number of its first line.
        language: what the page says it is; "" for nothing.
        text: its lines.
        reason: why it is not run, "" if it is.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str

    @property
    def commands(self) -> list[str]:
        """Its commands, each on one line, without comments."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page that show commands."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        shell = found["language"] in ("bash", "sh")
        if shell or (not found["language"] and _COMMAND.match(found["text"])):
            mark = found["mark"] or ""
            reason = mark.removeprefix("not run: ") if mark.startswith("not run: ") else ""
            line = text.count("\n", 0, found.start("text")) + 1
            yield Block(page, line, found["language"], found["text"], reason)


class Reader:
    """Somebody who types the commands of a page, in a directory of their own, with three simulated nodes.

    ``node1.example.com:8000`` and so on are nodes of this machine; what a page has done on every node (`shoal serve`,
    `shoal check`) is done for each of them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = free_ports(4)
        self._background: list[subprocess.Popen[bytes]] = []
        self.env = os.environ | {
            _MARK: str(directory),
            "HOME": str(directory),
            "SHOAL_SECRET": SECRET,
            "XDG_STATE_HOME": str(directory / "joined"),
            "PATH": f"{self._tools()}:{os.environ['PATH']}",
        }
        self._write_files()

    def run(self, block: Block) -> None:
        """Run a block's commands, in order; fail where one fails."""
        for command in block.commands:
            self._type(self._here(command), f"{block.page.name}:{block.line}: {command}")

    def serve(self) -> None:
        """Start the nodes, where the page has not told to."""
        self._type("shoal serve --config cluster.yaml", "start")

    def close(self) -> None:
        """End everything that was started."""
        for process in self._background:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._background:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        for left in psutil.process_iter(["environ"]):
            if (left.info["environ"] or {}).get(_MARK) == str(self._directory):
                left.kill()

    # -- how

    def _type(self, command: str, where: str) -> None:
        if re.search(r"\bshoal serve\b", command):
            joins = "--join" in command
            for port in self._ports[3:] if joins else self._ports[:3]:
                self._start(command if joins else f"{command} --node 127.0.0.1:{port}")
            wait_until(lambda: self._ready(4 if joins else 3), 200, where, every=0.2)
        elif re.match(r"shoal check\b", command):
            checks = [
                self._start(f"{command} --node 127.0.0.1:{port} --wait 170") for port in self._ports[:3]
            ]
            statuses = [check.wait(timeout=300) for check in checks]
            assert statuses == [0] * 3, f"{where}: {statuses}\n{self._output()}"
        elif re.search(
            r" -f\b", command
        ):  # until somebody ends it; not by Ctrl-C, which jobs in the background do not get
            before = len(self._output())
            process = self._start(command)
            wait_until(lambda: len(self._output()) > before, 120, where, every=0.2)
            assert process.poll() is None, f"{where} has ended\n{self._output()[-3000:]}"
            process.terminate()
            process.wait(timeout=30)
        else:
            if command.startswith("shoal restore"):
                self._lose_everything()
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self._directory,
                env=self.env,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
            assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}\n{self._output()[-3000:]}"

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        with (self._directory / "output").open("ab") as output:
            # Not a shell's child: signals are for the program.
            process = subprocess.Popen(
                ["bash", "-c", re.sub(r"\bshoal ", "exec shoal ", command, count=1)],
                cwd=self._directory,
                env=self.env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._background.append(process)
        return process

    def _output(self) -> str:
        path = self._directory / "output"
        return path.read_text(errors="replace") if path.exists() else ""

    def _ready(self, wanted: int) -> bool:
        try:
            document = ask(f"http://127.0.0.1:{self._ports[1]}", "/shoal/v1/status", None)
        except NoAnswer:
            return False
        engines = [e for m in document["members"] if m["state"] == "alive" for e in m["engines"]]
        return sum(e["state"] == "ready" for e in engines) >= wanted

    def _lose_everything(self) -> None:
        """What `shoal restore` is for: the nodes are gone, and so is what they had."""
        for process in self._background:
            process.send_signal(signal.SIGTERM)
        for process in self._background:
            process.wait(timeout=60)
        (self._directory / "state").rename(self._directory / "lost")

    def _here(self, command: str) -> str:
        """Return a command with the nodes and values of this reader."""
        for number, port in enumerate(self._ports, start=1):
            command = command.replace(f"node{number}.example.com:8000", f"127.0.0.1:{port}")
        command = re.sub(r"\bm-0\b", "Qwen3-8B-0", command)  # the engine of a model called m
        command = re.sub(r"^shoal top\b", "shoal top --json", command)  # this reader has no terminal
        return command.replace("SHOAL_SECRET=...", f"SHOAL_SECRET={SECRET}")

    def _tools(self) -> Path:
        """Return a directory with the programs of this checkout, whichever others are installed."""
        tools = self._directory / "bin"
        tools.mkdir()
        for name, arguments in (("shoal", "-m shoal"), ("python", "")):
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            (tools / name).chmod(0o755)
        return tools

    def _write_files(self) -> None:
        nodes = [{"host": "127.0.0.1", "port": port} for port in self._ports[:3]]
        config = {
            "nodes": nodes,
            "model": {"path": "Qwen3-8B", "engine": "sim"},
            "cluster": {"secret": "${SHOAL_SECRET}"},
            "recovery": {"drain_timeout": 5},
            "state_dir": "./state",
        }
        self._write("cluster.yaml", config)
        batch = (
            '{"custom_id": "one", "method": "POST", "url": "/v1/completions", "body": {"model": "Qwen3-8B", '
        )
        (self._directory / "requests.jsonl").write_text(batch + '"prompt": "hello", "max_tokens": 4}}\n')

    def _write(self, name: str, config: dict[str, object]) -> None:
        with (self._directory / name).open("w") as out:
            YAML(typ="safe").dump(config, out)

    def use_keys(self) -> None:
        """Have the file name a file of keys, which is there."""
        path = self._directory / "cluster.yaml"
        config = YAML(typ="safe").load(path.read_text())
        self._write("cluster.yaml", config | {"gateway": {"keys": {"file": "keys.yaml"}}})

    def use_example(self, name: str) -> None:
        """Have cluster.yaml and hardware.yaml be those of ``examples/plans``."""
        plans = ROOT / "examples/plans"
        for source, target in ((f"{name}.yaml", "cluster.yaml"), (f"{name}.hardware.yaml", "hardware.yaml")):
            (self._directory / target).write_text(
                (plans / source).read_text().replace("./models", f"{plans}/models")
            )
