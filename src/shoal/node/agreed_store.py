"""Keeps on a node's disk what the cluster agreed on, and makes the configuration out of it and the node's file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shoal.cluster.agreed import Agreed, Joined
from shoal.config import Config
from shoal.config.schema import Node
from shoal.config.shared import DocumentError, digest, shared, validated, with_local
from shoal.files import PRIVATE, write_whole

_FILE = "agreed.json"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is on disk.

    Attributes:
        agreed: what the cluster agreed on.
        file: digest of the shared part of this node's own file at that time; "" where no file names the node.
        learned: the configuration it was told when it joined, None where its own file has one.
    """

    agreed: Agreed = Agreed()
    file: str = ""
    learned: dict[str, object] | None = None


class AgreedStore:
    """The file in a node's state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE

    def read(self) -> Kept | None:
        """Return what is there, None if nothing (usable) is."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, kept: Kept) -> None:
        """Replace what is there; it is never seen half-written, and only its owner can read it: it may hold keys.

        Raises:
            OSError: it cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = msgspec.json.format(msgspec.json.encode(kept), indent=1)
        write_whole(self._path, content, mode=PRIVATE, sync=True)

    def forget(self) -> None:
        """Remove it: the node leaves for good."""
        self._path.unlink(missing_ok=True)


def base_of(file: Config, kept: Kept) -> tuple[Config, str]:
    """Return a node's configuration without the nodes that joined, and a sentence if it is not that of the file.

    What was applied holds as long as the node's own file is what it was then; who has edited it since means the file.

    Args:
        file: the file's; of a node that joined, one with its local settings.
        kept: what is on its disk.
    """
    applied = kept.agreed.applied
    try:
        if applied is not None and kept.file == (digest(shared(file)) if kept.file else ""):
            text = (
                f"generation {applied.generation} of the configuration, applied by way of {applied.by}, holds"
            )
            return with_local(applied.document, file), text
        if kept.learned is not None:
            return with_local(kept.learned, file), ""
    except DocumentError as error:
        return file, f"what was applied is no configuration for this release, the file holds: {error}"
    if applied is not None:
        return file, f"the file was changed since generation {applied.generation} was applied: the file holds"
    return file, ""


def begin_with(file: Config, kept: Kept | None, *, named: bool) -> tuple[Config, Kept, str]:
    """Return what a node starts with: its configuration without joined nodes, what to keep, and a sentence or "".

    Args:
        file: the file's configuration; of a node that joined, one with its local settings.
        kept: what is on its disk, None for nothing.
        named: the file names this node.
    """
    kept = kept or Kept()
    present = digest(shared(file)) if named else ""
    base, sentence = base_of(file, kept)
    if named and kept.agreed.applied is not None and kept.file != present:
        # It was edited, and holds until another node tells of what was applied.
        kept = Kept(agreed=Agreed(joined=kept.agreed.joined))
    return base, msgspec.structs.replace(kept, file=present), sentence


def with_joined(base: Config, agreed: Agreed, me: str) -> Config:
    """Return a configuration with the nodes that joined, and without those that left for good.

    Args:
        base: the configuration.
        agreed: who joined and left.
        me: this node, which is never taken out: it runs.
    """
    gone = {name for name, entry in agreed.joined.items() if not entry.present} - {me}
    nodes = [node for node in base.nodes if node.name not in gone]
    known = {node.name for node in nodes}
    came = sorted(agreed.joined.values(), key=lambda entry: (entry.stamp, entry.name))
    nodes += [node_of(entry) for entry in came if entry.name not in known and entry.name not in gone]
    if tuple(nodes) == base.nodes:
        return base
    dumped = base.model_dump(mode="json", by_alias=True, exclude_none=True)
    if not base.several:
        dumped.pop("models", None)
    names = {node.name for node in nodes}
    try:
        data = {**dumped, "nodes": [node.model_dump(mode="json", exclude_none=True) for node in nodes]}
        for model in [data["model"]] if "model" in data else data["models"]:
            if "nodes" in model:  # a model that named a node which left runs on the others it names
                model["nodes"] = [name for name in model["nodes"] if name in names] or model["nodes"]
        return validated(data)
    except DocumentError:
        return base  # without them it would be none: the last node that serves has left


def node_of(entry: Joined) -> Node:
    """Return a node that joined as the configuration has nodes."""
    return Node.model_validate(
        {"host": entry.host, "port": entry.port, "weight": entry.weight, "role": entry.role}
    )
