"""`shoal backup` and `shoal restore`: the state of this machine's nodes in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.config import Config, ConfigError, load
from shoal.node.backup import BackupError, back_up, digest
from shoal.node.backup import restore as bring_back

Cluster = Annotated[Path, typer.Option("--config", "-c", help="The cluster's YAML file.")]
Nodes = Annotated[
    list[str] | None,
    typer.Option("--node", help="HOST:PORT; may be given again. Default: all that are meant."),
]


def backup(
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive to write, .tar.gz.")],
    config: Cluster,
    node: Nodes = None,
) -> None:
    """Write the state of the nodes of this machine into one file: batches, files, certificates, logs, records.

    Nodes may run meanwhile. The file holds private keys: keep it as you keep the cluster's secret.

    Exit status: 0, or 2 when there is nothing to back up or it cannot be written.
    """
    names = _named(_load("backup", config), node, "backup")
    try:
        sizes = back_up(names, output)
    except BackupError as error:
        raise _fail("backup", str(error)) from None
    for name, size in sizes.items():
        typer.echo(f"{name}: {size / 1e6:,.1f} MB")
    typer.echo(f"{output}: {output.stat().st_size / 1e6:,.1f} MB, sha256 {digest(output)}")


def restore(
    archive: Annotated[Path, typer.Argument(help="What `shoal backup` wrote.")],
    config: Cluster,
    node: Nodes = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the state that a node has now.")] = False,
) -> None:
    """Bring back the state of nodes, which must not run, from a backup.

    What other nodes have taken over since stays with them: a restored node is an old one, and does nothing twice.

    Exit status: 0, or 2 when nothing was restored, and why.
    """
    cluster = _load("restore", config)
    names = _named(cluster, node, "restore")
    try:
        done = bring_back(archive, cluster.state_dir, names, force=force)
    except BackupError as error:
        raise _fail("restore", str(error)) from None
    except OSError as error:
        raise _fail("restore", f"{error.filename}: {error.strerror}") from None
    typer.echo(f"restored {', '.join(done)}")


def _load(command: str, path: Path) -> Config:
    try:
        return load(path).config
    except ConfigError as error:
        raise _fail(command, str(error)) from None


def _named(config: Config, nodes: list[str] | None, command: str) -> dict[str, Path]:
    """Return the state directories of the nodes that are meant, by name."""
    known = [node.name for node in config.nodes]
    for name in nodes or ():
        if name not in known:
            raise _fail(command, f"the file has no node {name}; it names: {', '.join(known)}")
    return {name: config.state_dir_of(name) for name in nodes or known}


def _fail(command: str, text: str) -> typer.Exit:
    typer.echo(f"shoal {command}: {text}", err=True)
    return typer.Exit(2)
