"""What is deployed: which packages, and which files each node gets beside them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shoal import __version__
from shoal.config import Loaded
from shoal.config.rules import KEY_VARIABLES, SECRET_VARIABLE

CONFIG = "cluster.yaml"
ENVIRONMENT = "environment"

# A node has these of its own.
_NODES_OWN = frozenset({"HOME", "USER", "LOGNAME", "PATH", "SHELL", "TMPDIR", "XDG_STATE_HOME"})
_WHEEL = re.compile(r"shoal-(?P<version>[^-]+)-.*\.whl")


class ReleaseError(Exception):
    """What is to be deployed is not there or not clear; the text says what helps."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What a virtual environment is made of.

    Attributes:
        version: of Shoal.
        requirements: what pip is asked for.
        wheels: files it is to take them from; none for its own index.
        pip_args: further arguments of pip.
    """

    version: str
    requirements: tuple[str, ...]
    wheels: tuple[Path, ...] = ()
    pip_args: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Name of its directory: the version, and a digest of all that decides what is in it.

        The content of Shoal's own wheel counts; the names and sizes of others do, gigabytes are not read for it.
        """
        digest = hashlib.sha256(repr((self.requirements, self.pip_args)).encode())
        for wheel in self.wheels:
            own = _WHEEL.fullmatch(wheel.name) is not None
            content = hashlib.sha256(wheel.read_bytes()).hexdigest() if own else str(wheel.stat().st_size)
            digest.update(f"{wheel.name} {content}\n".encode())
        return f"{self.version}-{digest.hexdigest()[:8]}"


def installation(
    wheels: Path | None, version: str | None, extras: Sequence[str], pip_args: Sequence[str]
) -> Installation:
    """Return what is to be installed.

    Args:
        wheels: directory of wheels, Shoal's and all that it needs; None for pip's own index.
        version: of Shoal; by default the one in `wheels`, else that of this program.
        extras: of Shoal, such as ``vllm``.
        pip_args: further arguments of ``pip install``.

    Raises:
        ReleaseError: the directory has no wheel of Shoal, or several and `version` does not tell which.
    """
    files = tuple(sorted(wheels.glob("*.whl"))) if wheels is not None else ()
    if wheels is not None:
        found = sorted({m["version"] for f in files if (m := _WHEEL.fullmatch(f.name))})
        fitting = [v for v in found if version in (None, v)]
        if len(fitting) != 1:
            has = f"those of {', '.join(found)}" if found else "none of Shoal"
            raise ReleaseError(f"{wheels} must have one wheel of Shoal; it has {has}. --version tells which")
        version = fitting[0]
        others = [f for f in files if not _WHEEL.fullmatch(f.name)]
        own = [f for f in files if (m := _WHEEL.fullmatch(f.name)) and m["version"] == version]
        files = tuple(own + others)
    version = version or __version__
    named = f"[{','.join(sorted(extras))}]" if extras else ""
    return Installation(version, (f"shoal{named}=={version}",), files, tuple(pip_args))


def extras_for(loaded: Loaded) -> tuple[str, ...]:
    """Return the extras that the nodes need: vLLM, unless it is in an environment of its own or not used."""
    uses_vllm = any(m.engine == "vllm" for m in loaded.config.models)
    given = any(s.name == "engines.python" and s.source.kind != "default" for s in loaded.settings())
    return ("vllm",) if uses_vllm and not given else ()


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """The files that every node gets; the same on all of them.

    Attributes:
        content: by name, relative to the node's directory.
    """

    content: Mapping[str, bytes] = field(repr=False)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by name."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.content.items()}


def node_files(loaded: Loaded, more: Iterable[str], env: Mapping[str, str] = os.environ) -> NodeFiles:
    """Return the configuration, the variables it needs, and the files that stand beside it.

    Args:
        loaded: the configuration.
        more: names of further variables that nodes are to have.
        env: where the values of variables come from.

    Raises:
        ReleaseError: a variable of `more` is not set, or has a line break.
    """
    names = {name for place in loaded.provenance.document.places.values() for name in place.variables}
    names |= {SECRET_VARIABLE, *KEY_VARIABLES.values()}
    unset = [name for name in more if name not in env]
    if unset:
        raise ReleaseError(f"the environment variable {unset[0]} that --env names is not set here")
    wanted = (names - _NODES_OWN) | set(more)
    values = {name: env[name] for name in sorted(wanted) if name in env}
    content = {CONFIG: loaded.path.read_bytes(), ENVIRONMENT: environment_text(values).encode()}
    base = loaded.path.absolute().parent
    gateway = loaded.config.gateway
    beside = [gateway.keys.file, *((gateway.tls.certificate, gateway.tls.key) if gateway.tls else ())]
    for path in (Path(p) for p in beside if p is not None):
        # Beside the configuration, so relative to it: so it is on the nodes. Others are there by other means.
        if path.parent == base and path.is_file():
            content[path.name] = path.read_bytes()
    return NodeFiles(content)


def environment_text(values: Mapping[str, str]) -> str:
    """Return an environment file, as systemd and `shoal.deploy.agent` read it.

    Raises:
        ReleaseError: a value has a line break.
    """
    lines = []
    for name, value in values.items():
        if not value.isprintable():
            raise ReleaseError(
                f"the environment variable {name} has a line break or another control character"
            )
        escaped = re.sub(r'([\\"$`])', r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)
