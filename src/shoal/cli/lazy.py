"""Commands whose modules are imported when they are called: nobody waits for what other commands need."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "serve": ("serve:serve", "Run a node of the cluster until it is told to stop."),
    "check": (
        "check:check",
        "Find out whether the cluster would work, before it goes live. Run it on all nodes at about the same time.",
    ),
    "plan": (
        "plan:plan",
        "Tell what would run where and why, before anything starts: engines, GPUs, memory. Reads no weights.",
    ),
    "up": (
        "up:up",
        "Start a cluster on Ray: a Shoal node on each of Ray's nodes, engines where Ray has room for them.",
    ),
    "down": (
        "up:down",
        "End a cluster on Ray: running requests finish, engines and nodes stop, Ray goes on.",
    ),
    "status": ("status:status", "Show members, engines and the last events of the cluster."),
    "top": ("top:top", "Show nodes, engines, rates and events of the cluster, live; q ends it."),
    "apply": (
        "apply:apply",
        "Have the running cluster go on with FILE: models added, changed, scaled, removed, while everything serves.",
    ),
    "deploy": (
        "deploy:deploy",
        "Install or update Shoal on all machines of FILE over SSH, and start its nodes, one after the other.",
    ),
    "events": ("events:events", "Tell what happened: members, engines, decisions and their reasons, orders."),
    "doctor": (
        "doctor:doctor",
        "Collect what helps to understand a running cluster into one file that holds no secrets.",
    ),
    "explain": (
        "explain:explain",
        "Tell why a request went to its engine, what was tried again or went on elsewhere, and what it took.",
    ),
    "logs": (
        "logs:logs",
        "Show the last lines of an engine's log, or of a node's own, from whichever node is asked.",
    ),
    "reload": (
        "reload:reload",
        "Read the file's `gateway` settings again and replace the gateway workers; the same as SIGHUP to the nodes.",
    ),
    "backup": (
        "backup:backup",
        "Write the state of the nodes of this machine into one file: batches, files, certificates, logs, records.",
    ),
    "restore": ("backup:restore", "Bring back the state of nodes, which must not run, from a backup."),
    "drain": (
        "fleet:drain",
        "Take a node's engines out of rotation: no new requests, running ones finish. Its gateway goes on serving.",
    ),
    "undrain": ("fleet:undrain", "Put a drained node's engines back into rotation."),
    "leave": (
        "fleet:leave",
        "Have a node leave the cluster for good: running requests finish, its engines stop, the others forget it.",
    ),
    "batch": ("batch:app", "Run files of requests through a cluster (OpenAI's batches)."),
    "config": ("config:app", "Check, show and describe configuration files."),
    "keys": ("keys:app", "Make, list and revoke API keys."),
    "monitor": ("monitor:app", "Prometheus and Grafana for a cluster."),
    "optimize": ("optimize:app", "Make a model smaller and faster, and measure it."),
}
"""Where each command is (module of `shoal.cli`, and the function or group in it), and the first line of its help."""


class LazyCommand(TyperCommand):
    """A command that is not imported yet: only its name and what it does are known.

    Args:
        name: what it is called by.
        where: module and function, or module and group (``app``).
        does: one line for the list of commands.
    """

    def __init__(self, name: str, where: str, does: str) -> None:
        super().__init__(name, help=does)
        self._where = where

    @cached_property
    def real(self) -> Any:
        """The command itself."""
        module, _, attribute = self._where.partition(":")
        found = getattr(importlib.import_module(f"shoal.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            command = get_command(found)
        else:
            alone = typer.Typer(add_completion=False)
            alone.command(self.name)(found)
            command = get_command(alone)
        command.name = self.name
        return command

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Import the command: it is called, or asked for its help or for completions."""
        return self.real.make_context(*given, **more)


class LazyGroup(TyperGroup):
    """The group of `COMMANDS`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for name, (where, does) in COMMANDS.items():
            self.commands[name] = LazyCommand(name, where, does)
