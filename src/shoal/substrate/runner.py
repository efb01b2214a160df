"""The actor on each node of Ray: starts the Shoal node there, and passes on what the controller tells it.

The node process is no part of Ray: it outlives this actor, which takes up with the running one when Ray has started it
again. The node's name, which it needs for that, is in a file.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shoal import __version__
from shoal.config.shared import validated
from shoal.files import PRIVATE, write_whole
from shoal.node.allotment import ALLOTMENT, FORGET
from shoal.node.fleet import LEAVE
from shoal.node.lock import running_process
from shoal.substrate import local

_OF_A_CLUSTER = ("agreed.json", "allotted.json")
"""What a node remembers of its cluster, and what must not hold in the next one on the same machines."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the actor remembers.

    Attributes:
        name: the node's.
        up: which `shoal up` it belongs to.
        pid: of the process that was started last; 0 for none.
    """

    name: str = ""
    up: str = ""
    pid: int = 0


class Runner:
    """One per node of Ray, pinned to it. Its methods are called by the controller, one after the other.

    Args:
        document: the configuration, with what `shared` leaves out.
        up: which `shoal up` this belongs to.
        ray_node: Ray's id of the node.
        ray_version: version of Ray here.
    """

    def __init__(self, document: Mapping[str, Any], up: str, ray_node: str, ray_version: str) -> None:
        self._document = dict(document)
        self._config = validated(document)
        self._up = up
        self._ray_version = ray_version
        self._directory = self._config.state_dir / "ray"
        self._file = self._directory / f"{ray_node}.json"
        self._note = Note(up=up)
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            note = msgspec.json.decode(self._file.read_bytes(), type=Note)
            self._note = note if note.up == up else self._note

    def versions(self) -> dict[str, str]:
        """Return what is installed here."""
        return {"ray": self._ray_version, "python": platform.python_version(), "shoal": __version__}

    def serve(self, name: str, join: str) -> str:
        """See to it that the node runs; return why it cannot, "" if it does or was started.

        Args:
            name: its ``host:port``.
            join: a node of the cluster to join, "" for the first one.
        """
        try:
            self._remember(Note(name=name, up=self._up, pid=self._note.pid))
            if not self._runs():
                self._remember(Note(name=name, up=self._up, pid=self._start(join)))
        except (OSError, local.NodeError) as error:
            return str(error)
        return ""

    def report(self) -> dict[str, Any]:
        """Return ``name`` of the node ("" for none yet), whether it ``runs``, and what it ``said``, if it answers."""
        runs, said = self._runs(), None
        if runs:
            with contextlib.suppress(local.NodeError):
                said = self._order(ALLOTMENT)
        return {"name": self._note.name, "runs": runs, "said": said}

    def allot(self, engines: Mapping[str, Any], say: list[str]) -> str:
        """Have the node run these engines; return why it does not, "" if it does."""
        return self._told(ALLOTMENT, {"engines": engines, "say": say})

    def leave(self, node: str = "") -> str:
        """Have a node, this one if none is named, leave for good; return why it does not, "" if it does."""
        return self._told(LEAVE, {"force": True} | ({"node": node} if node else {}))

    def forget(self, node: str) -> str:
        """Have the cluster forget a node that is lost; return why it does not, "" if it does."""
        return self._told(FORGET, {"node": node})

    # -- helpers

    @property
    def _state_dir(self) -> Path:
        return self._config.state_dir_of(self._note.name)

    def _runs(self) -> bool:
        """Return whether the node's process runs, be it that it just starts."""
        name, pid = self._note.name, self._note.pid
        return bool(name) and (running_process(self._state_dir) is not None or local.is_node(pid, name))

    def _remember(self, note: Note) -> None:
        if note != self._note:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._file, msgspec.json.encode(note), mode=PRIVATE)
            self._note = note

    def _told(self, path: str, arguments: Mapping[str, Any]) -> str:
        try:
            self._order(path, arguments)
        except local.NodeError as error:
            return str(error)
        return ""

    def _order(self, path: str, arguments: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        if not self._note.name:
            raise local.NodeError("there is no node here")
        cluster = self._config.cluster
        return local.order(self._state_dir, local.signer_for(cluster.name, cluster.secret), path, arguments)

    def _start(self, join: str) -> int:
        name, state_dir = self._note.name, self._state_dir
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        life = state_dir / "up"
        if not life.exists() or life.read_text() != self._up:
            for file_name in _OF_A_CLUSTER:
                (state_dir / file_name).unlink(missing_ok=True)
            life.write_text(self._up)
        host, _, port = name.rpartition(":")
        document = {**self._document, "nodes": [{"host": host, "port": int(port)}]}
        file = self._directory / f"{state_dir.name}.yaml"
        # JSON is YAML, but for what a configuration file makes of variables.
        text = json.dumps(document, indent=1, ensure_ascii=False).replace("${", "$${")
        write_whole(file, text.encode(), mode=PRIVATE)
        arguments = ["--config", str(file), "--node", name, *(["--join", join] if join else [])]
        environment = {**local.outer_environment(), local.MARK: "ray"}
        return local.start(arguments, self._directory / f"{state_dir.name}.log", environment)
