"""Whom a command asks or orders, and how it tells what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import typer

from shoal.cli.control import NoAnswer, Refused, ask, ask_any, order
from shoal.config import Config, ConfigError, load


def node_url(given: str | None) -> str:
    """Return the URL of the node that a person has named, or of the one on this machine."""
    given = given or "127.0.0.1:8000"
    return given if "://" in given else f"http://{given}"


class Asked:
    """The nodes that a command talks to. Whatever goes wrong ends the command with a clear line.

    Args:
        command: its name, for that line.
        config: the cluster's file, whose first node that answers is asked.
        at: a node to ask in its place.
        key: admin key, for gateways that ask for one.
    """

    def __init__(self, command: str, config: Path | None, at: str | None, key: str | None) -> None:
        self._command = command
        self._key = key
        try:
            self.config: Config | None = load(config).config if config is not None else None
        except ConfigError as error:
            self.fail(str(error), 2)
        self.url = node_url(at) if at is not None or self.config is None else None

    def order(self, path: str, arguments: dict[str, Any]) -> Any:
        """Give a signed order and return the answer; exit where it is not taken."""
        try:
            return order(self.config, self.url, path, arguments, key=self._key)
        except (Refused, NoAnswer) as error:
            self.end(error)

    def question(self, path: str, arguments: Mapping[str, Any], *, timeout: float = 15.0) -> Any:
        """Return the answer to a signed question.

        Args:
            path: such as ``/shoal/v1/logs``.
            arguments: its query.
            timeout: seconds without an answer.

        Raises:
            NoAnswer: no node answers.
            Refused: the one that did refuses.
        """
        target = f"{path}?{urlencode(arguments)}"
        return order(self.config, self.url, target, {}, key=self._key, method="GET", timeout=timeout)

    def document(self, path: str) -> Any:
        """Return a document that is told without a signature.

        Raises:
            NoAnswer: no node answers with one.
        """
        if self.url is not None:
            return ask(self.url, path, self._key)
        assert self.config is not None
        return ask_any(self.config, path, self._key)

    def end(self, error: Refused | NoAnswer) -> NoReturn:
        """Exit: with status 1 where a node refuses, with 2 where none could be asked."""
        if isinstance(error, Refused):
            self.fail(str(error), 1)
        where = f"  {self.url}: " if self.url is not None and not str(error).startswith("  ") else ""
        self.fail(
            f"no node could be asked:\n{where}{error}\nName one with --at HOST:PORT, or the file with -c.", 2
        )

    def fail(self, message: str, status: int) -> NoReturn:
        """Exit with a message."""
        typer.echo(f"shoal {self._command}: {message}", err=True)
        raise typer.Exit(status)
