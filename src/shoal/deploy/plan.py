"""What has to be done on each machine, from what is there and what is wanted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.deploy.unit import UnitOf, start_command, unit_name, unit_text

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node goes.

    Attributes:
        node: ``host:port``.
        destination: SSH destination of its machine.
        prefix: directory of the installation there; absolute.
        systemd: whether systemd is to run it.
        user: whom it runs as.
        drain_timeout: the configuration's ``recovery.drain_timeout``, seconds.
    """

    node: str
    destination: str
    prefix: str
    systemd: bool = True
    user: str = ""
    drain_timeout: float = 30.0

    @property
    def home(self) -> str:
        """Directory of the node's files."""
        return f"{self.prefix}/nodes/{self.node.replace(':', '_').replace('[', '').replace(']', '')}"

    @property
    def unit(self) -> str:
        """Name of its systemd unit, "" without one."""
        return unit_name(self.node) if self.systemd else ""

    @property
    def unit_text(self) -> str:
        """Text of its unit file, "" without one."""
        if not self.systemd:
            return ""
        return unit_text(UnitOf(self.node, self.prefix, self.home, self.user, self.drain_timeout))

    @property
    def command(self) -> str:
        """Shell command that becomes the node process."""
        return start_command(self.prefix, self.home, self.node)


@dataclass(frozen=True, slots=True)
class Target:
    """The release that a node is to have.

    Attributes:
        id: of the installation.
        version: of Shoal.
        files: SHA-256 by name.
        unit: SHA-256 of the unit's text.
    """

    id: str
    version: str
    files: Mapping[str, str]
    unit: str

    @property
    def note(self) -> Json:
        """What `release.json` says of it."""
        return {"install": self.id, "version": self.version, "files": dict(self.files)}


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be done for one node.

    Attributes:
        node: ``host:port``.
        install: the installation is not there.
        release: its files or its installation change.
        running: it runs already, so its place in the cluster has to be kept.
        reasons: why it is started anew; none when it is not.
        was: version that it has now, "" for none.
    """

    node: str
    install: bool
    release: bool
    running: bool
    reasons: tuple[str, ...] = field(default=())
    was: str = ""

    @property
    def restart(self) -> bool:
        """Whether it is started, or started anew."""
        return bool(self.reasons)

    @property
    def nothing(self) -> bool:
        """Whether all is as it should be."""
        return not (self.install or self.release or self.restart)


def work_for(node: str, target: Target, facts: Mapping[str, Any]) -> Work:
    """Return what has to be done for `node` to have `target`, by what its machine has told of itself."""
    there = facts["nodes"][node]
    release, started, running = there["release"], there["started"], there["pid"] is not None
    return Work(
        node=node,
        install=target.id not in facts["installed"],
        release=release != target.note or facts["current"] != target.id,
        running=running,
        reasons=tuple(_reasons(target, started) if running else ["it does not run"]),
        was=(release or {}).get("version", ""),
    )


def _reasons(target: Target, started: Mapping[str, Any] | None) -> list[str]:
    if started is None:
        return ["it was not started by `shoal deploy`"]
    found = []
    if started["install"] != target.id:
        found.append(f"it runs {started['version']} ({started['install']}), {target.id} is wanted")
    names = sorted(set(started["files"]) | set(target.files))
    changed = [n for n in names if started["files"].get(n) != target.files.get(n)]
    # Nodes look at files of keys and certificates by themselves.
    found += [f"{name} has changed" for name in changed if name in ("cluster.yaml", "environment")]
    if started.get("unit", "") != target.unit:
        found.append("its systemd unit has changed")
    return found


def problems(place: Place, facts: Mapping[str, Any], *, sudo: bool) -> list[str]:
    """Return what keeps a machine from being deployed to, each with what helps."""
    found = []
    if facts["python"] is None:
        found.append(
            "it has no Python 3.11 or newer with venv: install one (Debian: python3-venv), or name it with --python"
        )
    if not facts["writable"]:
        helps = "name another --prefix" if sudo else "use --sudo, log in as root, or name another --prefix"
        found.append(f"{facts['user']} may not write to {place.prefix}: {helps}")
    if place.systemd and not facts["systemd"]:
        found.append("systemd does not run there: use --no-systemd")
    elif place.systemd and not facts["root"]:
        found.append("units are written by root: use --sudo, log in as root, or use --no-systemd")
    return found


def lacking(before: Mapping[str, int], node: str, status: Mapping[str, Any] | None) -> str:
    """Return what a node that was started anew, or the cluster, does not have back yet; "" when all is there.

    Args:
        before: ready engines of the cluster by model, when the deployment began.
        node: the node.
        status: its status document, None while it does not answer.
    """
    if status is None:
        return "it does not answer"
    own = next((m for m in status["members"] if m["name"] == node), None)
    if own is None or own["state"] != "alive":
        return f"it is {own['state'] if own else 'unknown'} in its own view"
    # So long until the rules were gone through and the others were heard: what they say before is of the past.
    if status["uptime"] < _SETTLED:
        return "it has only just started"
    if own.get("replacing"):
        return "engines of the former release are being replaced"
    waiting = [e for e in own["engines"] if e["state"] != "ready" and not e["standby"]]
    if waiting:
        engine = waiting[0]
        return (
            f"engine {engine['id']} is {engine['state']}{': ' + engine['detail'] if engine['detail'] else ''}"
        )
    now = ready_engines(status)
    for model, count in before.items():
        if now.get(model, 0) < count:
            return f"{now.get(model, 0)} of {count} engines of {model} are ready in the cluster"
    return ""


_SETTLED = 3.0


def ready_engines(status: Mapping[str, Any]) -> dict[str, int]:
    """Return how many engines of each model are ready, and not kept as spares, on members that are alive."""
    found: dict[str, int] = {}
    for member in status["members"]:
        if member["state"] != "alive":
            continue
        for engine in member["engines"]:
            if engine["state"] == "ready" and not engine["standby"]:
                found[engine["model"]] = found.get(engine["model"], 0) + 1
    return found
