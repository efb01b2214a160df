"""What a node's directory and machine tell of it, whether it runs or not: logs, certificates, facts.

For support bundles: the node itself tells it while it runs (`shoal.node.doctor`), and `shoal doctor` looks by itself
after nodes of its own machine that do not.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import psutil
from cryptography import x509

from shoal.config import Config
from shoal.config.explain import values
from shoal.engine import logs
from shoal.engine.gpu import driver_versions, list_gpus
from shoal.engine.record import log_path
from shoal.node.exposing import disks_of, versions
from shoal.node.lock import running_process
from shoal.observe.scrub import Scrubber, secrets_in


def left_behind(config: Config, node: str, lines: int) -> dict[str, Any] | None:
    """Return what there is to tell of a node that does not tell it, without secrets; None if it was never here.

    Args:
        config: the configuration.
        node: its name.
        lines: of each log.
    """
    state_dir = config.state_dir_of(node)
    if not state_dir.is_dir():
        return None
    report = {
        "node": node,
        "time": time.time(),
        "process": running_process(state_dir),
        "versions": versions() | driver_versions(),
        "machine": machine_facts(config, node),
        "certificates": certificates(config, state_dir),
        "config": values(config),
        "logs": engine_logs(state_dir, lines),
    }
    found: dict[str, Any] = Scrubber(secrets_in(config.model_dump(mode="json"), os.environ)).tree(report)
    return found


def engine_logs(state_dir: Path, lines: int) -> dict[str, list[str]]:
    """Return the last lines of the log of each engine that a node has had, by the engine's id."""
    found = {}
    for path in sorted(log_path(state_dir, "x").parent.glob("*.log")):
        try:
            found[unquote(path.stem)] = logs.tail(path, lines)
        except OSError as error:
            found[unquote(path.stem)] = [f"the log cannot be read: {error.strerror}"]
    return found


def machine_facts(config: Config, node: str) -> dict[str, Any]:
    """Return what there is to tell of the machine and of this process's place on it."""
    memory, files = psutil.virtual_memory(), resource.getrlimit(resource.RLIMIT_NOFILE)
    disks = {}
    for holds, path in disks_of(config, node).items():
        try:
            usage = shutil.disk_usage(path)
            disks[holds] = {"path": str(path), "bytes": usage.total, "free": usage.free}
        except OSError as error:
            disks[holds] = {"path": str(path), "problem": error.strerror}
    return {
        "system": " ".join(platform.uname()),
        "python": sys.version,
        "executable": sys.executable,
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "memory": {"bytes": memory.total, "available": memory.available},
        "swap": psutil.swap_memory().total,
        "booted": psutil.boot_time(),
        "open_files_limit": list(files),
        "gpus": [msgspec.to_builtins(gpu) for gpu in list_gpus()],
        "disks": disks,
    }


def certificates(config: Config, state_dir: Path) -> list[dict[str, str]]:
    """Return from when to when each certificate of a node is valid."""
    paths = sorted((state_dir / "tls").glob("*/*.pem"))
    if config.gateway.tls is not None:
        paths.append(Path(config.gateway.tls.certificate))
    found = []
    for path in paths:
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            found.append({"file": str(path), "problem": str(error)})
            continue
        found.append(
            {
                "file": str(path),
                "subject": certificate.subject.rfc4514_string(),
                "issuer": certificate.issuer.rfc4514_string(),
                "valid_from": certificate.not_valid_before_utc.isoformat(),
                "valid_until": certificate.not_valid_after_utc.isoformat(),
            }
        )
    return found
