"""What `shoal deploy` runs on the other machine: sent there over SSH, so the standard library alone.

Python 3.9 is enough. It reads one request, a line of JSON, from standard input, then the bytes of the files that the
request names, does what is asked, and prints a line of JSON: ``{"ok": ...}``, or ``{"error": ...}`` with what is wrong
and what helps.

What it makes below the prefix::

    ID/                  an installation: a virtual environment; `.complete` in it says that it is whole
    current -> ID        the installation that a node starts with
    nodes/HOST_PORT/     cluster.yaml, environment (0600), files that the configuration names, release.json,
                         started.json (what the process was started with), former/ (the release before)
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

Json = dict[str, Any]

_COMPLETE = ".complete"
_TAIL = 3000  # characters of a log that an error shows
_CHUNK = 1 << 20
_MIN_PYTHON = (3, 11)
_PYTHONS = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")


class AgentError(Exception):
    """It cannot be done; the text says why and what helps."""


# -- what is there


def facts(request: Json) -> Json:
    """Tell what is on this machine: of the prefix, of its nodes, and of what deployment needs."""
    prefix, homes = Path(request["prefix"]), request["homes"]
    return {
        "user": os.environ.get("SUDO_USER") or _user(),
        "root": os.geteuid() == 0,
        "systemd": Path("/run/systemd/system").is_dir(),
        "python": _python(request.get("python")),
        "writable": _writable(prefix),
        "installed": [p.name for p in _installations(prefix)],
        "current": _link(prefix / "current"),
        "nodes": {node: _node(Path(home), request["units"].get(node)) for node, home in homes.items()},
    }


def _node(home: Path, unit: str | None) -> Json:
    pid = _pid(home) or _unit_pid(unit)
    unit_file = _unit_path(unit) if unit else None
    return {
        "release": _read_json(home / "release.json"),
        "former": _read_json(home / "former" / "release.json"),
        "started": _read_json(home / "started.json") if pid else None,
        "pid": pid,
        "unit": _sha(unit_file) if unit_file and unit_file.exists() else "",
    }


def _python(wanted: str | None) -> str | None:
    """Return an interpreter that is new enough, None without one."""
    for name in (wanted,) if wanted else _PYTHONS:
        path = shutil.which(name)
        if path is None:
            continue
        code = f"import sys, venv, ensurepip; raise SystemExit(sys.version_info < {_MIN_PYTHON})"
        if _quiet([path, "-c", code]):
            return path
    return None


def _writable(prefix: Path) -> bool:
    there = prefix
    while not there.exists():
        there = there.parent
    return os.access(there, os.W_OK | os.X_OK)


# -- installing


def install(request: Json, stream: BinaryIO) -> Json:
    """Make an installation: a virtual environment with what is asked for in it."""
    prefix, name = Path(request["prefix"]), request["id"]
    target, wheels = prefix / name, prefix / f".wheels-{name}"
    if (target / _COMPLETE).exists():
        return {"changed": False}
    for leftover in (target, wheels):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        wheels.mkdir(parents=True)
        for file in request["files"]:
            _receive(stream, wheels / file["name"], file["size"])
        python, source = request["python"], []
        # With the interpreter's own pip the environment needs none: seconds less than to install one first.
        outside = _quiet([python, "-m", "pip", "--python", python, "--version"])
        bare = ["--without-pip"] if outside else []
        _run([python, "-m", "venv", *bare, str(target)], "making the environment")
        if request["files"]:
            source = ["--no-index", "--find-links", str(wheels)]
        pip = [python, "-m", "pip", "--python", str(target / "bin/python")] if outside else []
        pip = pip or [str(target / "bin/python"), "-m", "pip"]
        pip += ["install", "--quiet", "--no-input", "--disable-pip-version-check"]
        pip += [*source, *request["pip_args"], *request["requirements"]]
        _run(pip, "installing with pip")
        (target / _COMPLETE).write_text(json.dumps({"requirements": request["requirements"]}))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(wheels, ignore_errors=True)
    return {"changed": True}


def tidy(request: Json) -> Json:
    """Remove installations that no node has as its release or its former one."""
    prefix = Path(request["prefix"])
    kept = {_link(prefix / "current")}
    for note in prefix.glob("nodes/*/**/*.json"):
        kept.add((_read_json(note) or {}).get("install"))
    removed = [p for p in _installations(prefix) if p.name not in kept]
    for installation in removed:
        shutil.rmtree(installation, ignore_errors=True)
    return {"removed": [p.name for p in removed]}


def _installations(prefix: Path) -> list[Path]:
    return sorted(p.parent for p in prefix.glob(f"*/{_COMPLETE}") if not p.parent.is_symlink())


# -- a node's release


def release(request: Json, stream: BinaryIO) -> Json:
    """Put a node's files and its installation in place; the ones before are kept for a rollback."""
    prefix, home = Path(request["prefix"]), Path(request["home"])
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    incoming = home / ".incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(mode=0o700)
    for file in request["files"]:
        _receive(stream, incoming / file["name"], file["size"])
    digests = {file["name"]: _sha(incoming / file["name"]) for file in request["files"]}
    note = {"install": request["id"], "version": request["version"], "files": digests}
    (incoming / "release.json").write_text(json.dumps(note))
    if _read_json(home / "release.json") not in (None, note):
        _keep(home)
    _put_in_place(incoming, home, request["owner"])
    _switch(prefix, request["id"])
    return {}


def rollback(request: Json) -> Json:
    """Put a node's former release back in place; the one of now becomes the former one."""
    prefix, home = Path(request["prefix"]), Path(request["home"])
    note = _read_json(home / "former" / "release.json")
    if note is None:
        raise AgentError("there is no former release of this node")
    if not (prefix / note["install"] / _COMPLETE).exists():
        raise AgentError(
            f"the former installation {note['install']} is no longer there; deploy its version again"
        )
    incoming = home / ".incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    (home / "former").rename(incoming)
    _keep(home)
    _put_in_place(incoming, home, request["owner"])
    _switch(prefix, note["install"])
    return {}


def _keep(home: Path) -> None:
    """Copy the files of a node's release to its folder ``former``."""
    note = _read_json(home / "release.json") or {"files": {}}
    new = home / ".former.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    for name in (*note["files"], "release.json"):
        if (home / name).exists():
            shutil.copy2(home / name, new / name)
    shutil.rmtree(home / "former", ignore_errors=True)
    new.rename(home / "former")


def _put_in_place(incoming: Path, home: Path, owner: str) -> None:
    """Move files to where the node reads them, `release.json` last: it says that all are there."""
    names = sorted(p.name for p in incoming.iterdir())
    for name in sorted(names, key=lambda n: n == "release.json"):
        (incoming / name).chmod(0o600)
        (incoming / name).replace(home / name)
    incoming.rmdir()
    if os.geteuid() == 0:  # the node reads them as its own user
        for path in (home, *home.rglob("*")):
            shutil.chown(path, owner)


def _switch(prefix: Path, name: str) -> None:
    """Point the link ``current`` to an installation, all at once."""
    if _link(prefix / "current") != name:
        new = prefix / ".current.new"
        new.unlink(missing_ok=True)
        new.symlink_to(name)
        new.replace(prefix / "current")


# -- starting and stopping


def restart(request: Json) -> Json:
    """Start a node with its release, in the place of the process that runs. Its engines live on meanwhile."""
    home = Path(request["home"])
    if request["unit"]:
        _restart_unit(request)
    else:
        _stop_process(home, signal.SIGUSR2, request["stop_timeout"])
        _start_process(request)
    note = _read_json(home / "release.json") or {}
    started = home / ".started.new"
    started.write_text(
        json.dumps({**note, "unit": hashlib.sha256(request["unit_text"].encode()).hexdigest()})
    )
    started.replace(home / "started.json")
    return {}


def stop(request: Json) -> Json:
    """Stop a node and its engines."""
    if request["unit"]:
        _run(["systemctl", "disable", "--now", request["unit"]], "stopping the unit")
    else:
        _stop_process(Path(request["home"]), signal.SIGTERM, request["stop_timeout"])
    return {}


def _restart_unit(request: Json) -> None:
    unit, path = request["unit"], _unit_path(request["unit"])
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(request["unit_text"])
    new.replace(path)
    _run(["systemctl", "daemon-reload"], "telling systemd of the unit")
    _run(["systemctl", "enable", unit], "enabling the unit")
    done = subprocess.run(["systemctl", "restart", unit], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log = subprocess.run(
            ["journalctl", "-u", unit, "-n", "30", "--no-pager", "-o", "cat"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        raise AgentError(f"the unit {unit} does not start:\n{(log or done.stderr)[-_TAIL:]}")


def _start_process(request: Json) -> None:
    """Start a node in a session of its own; return when it says that it is ready."""
    home = Path(request["home"])
    env = {**os.environ, **environment(home / "environment")}
    with (
        tempfile.TemporaryDirectory(prefix="shoal-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line,
        (home / "node.log").open("ab") as log,
    ):
        line.bind(f"{folder}/notify")
        line.settimeout(0.5)
        began = log.tell()
        process = subprocess.Popen(
            ["/bin/sh", "-c", request["command"]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env={**env, "NOTIFY_SOCKET": f"{folder}/notify"},
            start_new_session=True,
        )
        (home / "pid").write_text(f"{process.pid} {_started_at(process.pid)}")
        deadline = time.monotonic() + request["start_timeout"]
        while True:
            try:
                if "READY=1" in line.recv(4096).decode(errors="replace").splitlines():
                    return
            except TimeoutError:
                pass
            except OSError:  # Python 3.9 has a socket.timeout of its own
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                ended = process.poll() is not None
                why = f"ended with status {process.returncode}" if ended else "is not ready in time"
                said = (home / "node.log").read_bytes()[began:].decode(errors="replace")[-_TAIL:]
                raise AgentError(f"the node process {why}; {home}/node.log ends with:\n{said}")


def _stop_process(home: Path, signum: signal.Signals, timeout: float) -> None:
    pid = _pid(home)
    if pid is None:
        return
    os.kill(pid, signum)
    deadline = time.monotonic() + timeout
    while _pid(home) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline += timeout
        time.sleep(0.1)


def probe(request: Json) -> Json:
    """Ask the node what it sees, over its unix socket."""
    home = Path(request["home"])
    note, last = home / "socket", ""
    for _ in range(2):
        try:
            return {"answer": _status_over(note.read_text())}
        except (OSError, ValueError, http.client.HTTPException) as error:
            last = str(error)
        # Where it is the node's configuration says, so the Shoal of that node: it takes a second to be asked.
        env = {**os.environ, **environment(home / "environment")}
        if os.geteuid() == 0:
            env["HOME"] = str(Path(f"~{request['owner']}").expanduser())
        python = Path(request["prefix"]) / (_read_json(home / "release.json") or {})["install"] / "bin/python"
        command = [str(python), "-m", "shoal.deploy.probe", str(home / "cluster.yaml"), request["node"]]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=120)
        if done.returncode != 0:
            return {"answer": None, "why": done.stderr.strip()[-_TAIL:]}
        note.write_text(done.stdout.strip())
    return {"answer": None, "why": last}


def _status_over(path: str) -> Json:
    connection = http.client.HTTPConnection("node", timeout=10)
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(10)
        line.connect(path)
        connection.sock = line
        connection.request("GET", "/shoal/v1/status")
        answer: Json = json.loads(connection.getresponse().read())
        return answer


# -- helpers


def environment(path: Path) -> dict[str, str]:
    """Return the variables of an environment file: lines of ``NAME="VALUE"`` with backslashes before ``\\ " $ ```."""
    found = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        name, _, value = text.partition("=")
        found[name] = re.sub(r"\\(.)", r"\1", value[1:-1])
    return found


def _receive(stream: BinaryIO, path: Path, size: int) -> None:
    with path.open("wb") as out:
        while size:
            chunk = stream.read(min(size, _CHUNK))
            if not chunk:
                raise AgentError(f"the connection ended before all of {path.name} had come")
            out.write(chunk)
            size -= len(chunk)


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AgentError(f"{what} failed: {' '.join(command)}\n{(done.stderr or done.stdout)[-_TAIL:]}")


def _quiet(command: list[str]) -> bool:
    """Return whether a command succeeds; what it says is of no interest."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_json(path: Path) -> Json | None:
    try:
        data: Json = json.loads(path.read_text())
        return data
    except (OSError, ValueError):
        return None


def _link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None


def _user() -> str:
    import pwd  # noqa: PLC0415

    return pwd.getpwuid(os.geteuid()).pw_name


def _unit_path(unit: str) -> Path:
    return Path(os.environ.get("SHOAL_UNIT_DIR", "/etc/systemd/system")) / unit


def _unit_pid(unit: str | None) -> int | None:
    if not unit or shutil.which("systemctl") is None:
        return None
    command = ["systemctl", "show", "--property", "MainPID", "--value", unit]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return int(text) if text.isdecimal() and text != "0" else None


def _pid(home: Path) -> int | None:
    """Return the id of the process that was started here, None when it has ended (or its id is another's by now)."""
    try:
        pid, started = (home / "pid").read_text().split()
        return int(pid) if _started_at(int(pid)) == started else None
    except (OSError, ValueError):
        return None


def _started_at(pid: int) -> str:
    """Return when a process began, in clock ticks since boot; "" for one that has ended, a zombie too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def main(stream: BinaryIO) -> None:
    """Answer the request on `stream`."""
    request = json.loads(stream.readline())
    with_files = {"install": install, "release": release}
    plain = {
        "facts": facts,
        "tidy": tidy,
        "rollback": rollback,
        "restart": restart,
        "stop": stop,
        "probe": probe,
    }
    try:
        os.umask(0o022)
        name = request["do"]
        answer = with_files[name](request, stream) if name in with_files else plain[name](request)
        print(json.dumps({"ok": answer}))
    except AgentError as error:
        print(json.dumps({"error": str(error)}))
    except OSError as error:
        print(json.dumps({"error": f"{error.filename or ''}: {error.strerror or error}"}))


if __name__ == "__main__":
    main(sys.stdin.buffer)
