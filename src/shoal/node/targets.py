"""Keeps the file by which Prometheus finds the nodes."""

from __future__ import annotations

from pathlib import Path

from shoal.cluster.view import MemberState, View
from shoal.node.events import Events
from shoal.observe.prometheus import targets


class Targets:
    """Writes the file whenever there are other nodes than before. All nodes of a machine write the same.

    Args:
        path: of the file; None to write none.
        cluster: name of the cluster.
        events: gets a sentence when the file cannot be written.
    """

    def __init__(self, path: Path | None, cluster: str, events: Events) -> None:
        self._path = path
        self._cluster = cluster
        self._events = events
        self._written = ""

    def update(self, view: View) -> None:
        """Write the nodes of a view; those that are away too, for Prometheus to see it, but not who said good-bye."""
        path = self._path
        if path is None or not path.parent.is_dir():
            return
        names = [m.name for m in view.members if m.is_self or m.state is not MemberState.LEFT]
        text = targets(self._cluster, names)
        if text == self._written:
            return
        self._written = text
        new = path.with_name(f".{path.name}.{view.me.replace('/', '_')}")
        try:
            new.write_text(text)
            new.replace(path)
        except OSError as error:
            self._events.add(f"monitoring.targets_file {path} cannot be written: {error.strerror}", "warning")
