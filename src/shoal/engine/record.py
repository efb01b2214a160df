"""What is kept on disk about a running engine, so that the next node process can adopt it or end it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import quote

import msgspec

from shoal.engine import logs
from shoal.engine.shm import Segment
from shoal.engine.spec import EngineSpec, Part
from shoal.engine.tree import Ident
from shoal.files import PRIVATE, write_whole


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A started engine. No secret is among this: of arguments and variables only digests.

    Attributes:
        id: unique on its node.
        model: the model's name in the configuration.
        kind: ``vllm``, ``sim`` or ``command``.
        served_name: id it answers to.
        host: address it listens on.
        port: TCP port it listens on.
        gpus: NVML indices of its GPUs, see `EngineSpec`.
        parts: digests of what it was started from, see `EngineSpec.parts`.
        fingerprint: digest of those.
        marker: value of ``SHOAL_ENGINE`` in the environment of its processes.
        log: file it writes to.
        boot: the boot of the machine it runs under.
        leader: its first process; None from the moment before it is started until it is.
        started: when, in seconds since the epoch.
        authority: of its TLS, see `spec.Tls`; "" if it speaks none.
        health: path that answers 200 when it is well.
        members: processes seen in its tree.
        segments: shared memory its processes use.
        part: which part of an engine across nodes it is, None for a whole one.
        lifeline: TCP port of `shoal.engine.lifeline`; 0 without one.
    """

    id: str
    model: str
    kind: str
    served_name: str
    host: str
    port: int
    gpus: tuple[int, ...] | None
    parts: dict[str, str]
    fingerprint: str
    marker: str
    log: str
    boot: str
    leader: Ident | None = None
    started: float = 0.0
    authority: str = ""
    health: str = "/health"
    members: tuple[Ident, ...] = ()
    segments: tuple[Segment, ...] = ()
    part: Part | None = None
    lifeline: int = 0

    def changed(self, spec: EngineSpec) -> list[str]:
        """Return the names of the parts in which `spec` differs from what the engine was started from."""
        wanted = spec.parts()
        return sorted(
            name for name in wanted.keys() | self.parts.keys() if wanted.get(name) != self.parts.get(name)
        )


def record_path(state_dir: Path, engine: str) -> Path:
    """Return where the record of `engine` is kept."""
    return state_dir / "engines" / f"{quote(engine, safe='')}.json"


def log_path(state_dir: Path, engine: str) -> Path:
    """Return where the log of `engine` is kept."""
    return state_dir / "logs" / f"{quote(engine, safe='')}.log"


def write(state_dir: Path, record: Record) -> None:
    """Put a record in the place of the one before, all at once.

    Raises:
        OSError: it could not be written; the one before is still there.
    """
    path = record_path(state_dir, record.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, msgspec.json.encode(record), mode=PRIVATE)


def remove(state_dir: Path, engine: str) -> None:
    """Remove the record of `engine`, if there is one."""
    record_path(state_dir, engine).unlink(missing_ok=True)


def read_all(state_dir: Path) -> tuple[list[Record], list[str]]:
    """Return all records, in order of id, and a sentence for each file that is none.

    Such a file is put aside as ``NAME.json.bad``: the engine it belonged to, if it still runs, is not known any more.
    """
    records = []
    problems = []
    for path in sorted((state_dir / "engines").glob("*.json")):
        try:
            records.append(msgspec.json.decode(path.read_bytes(), type=Record))
        except (OSError, msgspec.MsgspecError) as error:
            problems.append(f"{path} is not the record of an engine and is put aside: {error}")
            path.replace(path.with_name(f"{path.name}.bad"))
    return sorted(records, key=lambda record: record.id), problems


def keep(state_dir: Path, record: Record) -> None:
    """Keep a record if the disk lets us: an engine that serves is worth more than the chance to adopt it later."""
    try:
        write(state_dir, record)
    except OSError:
        logs.note(Path(record.log), "the engine's record could not be written; it may not be adopted later")


def forget(state_dir: Path, engine: str) -> None:
    """Remove a record if the disk lets us; one of an engine that is gone only costs the next start a look."""
    with contextlib.suppress(OSError):
        remove(state_dir, engine)
