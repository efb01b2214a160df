"""Paths in a configuration: what they are relative to, and where state goes when the file does not say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the meaning of a path depends on. The context that `Config` is validated in.

    Attributes:
        base: directory that ``./`` and ``../`` start from: the configuration file's.
        env: the environment.
    """

    base: Path = field(default_factory=Path.cwd)
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def expand(self, text: str) -> str:
        """Return `text` with ``~`` replaced, and made absolute if it begins with ``./`` or ``../``.

        Anything else stays as it is: ``org/name`` may be a model on a hub, ``python3`` a program on the PATH.

        Raises:
            ValueError: there is no such user or home directory.
        """
        head, slash, rest = text.partition("/")
        if head.startswith("~"):
            return self._home(head) + slash + rest
        if head in {".", ".."}:
            return os.path.normpath(self.base / text)
        return text

    def default_state_dir(self) -> Path:
        """Return ``$XDG_STATE_HOME/shoal`` or ``~/.local/state/shoal`` (XDG Base Directory Specification).

        Raises:
            ValueError: there is no home directory.
        """
        configured = self.env.get("XDG_STATE_HOME", "")
        # The specification has relative paths ignored.
        base = Path(configured) if configured.startswith("/") else Path(self._home("~")) / ".local" / "state"
        return base / "shoal"

    def _home(self, user: str) -> str:
        if user == "~" and self.env.get("HOME"):
            return self.env["HOME"]
        try:
            return str(Path(user).expanduser())
        except RuntimeError:
            raise ValueError(
                f"the home directory of {user} is not known here; write the whole path"
            ) from None
