"""The orders `shoal plan --diff` and `shoal apply` give to a node, which then leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shoal.config import Config
from shoal.config.shared import DocumentError
from shoal.node.applying import Applying
from shoal.node.orders import Handler, RefusedError
from shoal.node.trial import Terms

APPLY = "/shoal/v1/apply"


class ApplyOrders:
    """Takes the orders, one at a time.

    Args:
        make: returns what applies a document: the document, its configuration, whether to force it, and what is asked
            of the canary (None for nothing more than of every engine).
        configured: returns the configuration that a document is on this node; may raise DocumentError.
        completed: returns a document with what operators do not say.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, Any], Config, bool, Terms | None], Applying],
        configured: Callable[[Mapping[str, Any]], Config],
        completed: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        self._make = make
        self._configured = configured
        self._completed = completed
        self._applying: Applying | None = None
        self._task: asyncio.Task[None] | None = None

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what takes the orders, by method and path."""
        return {("POST", APPLY): self._apply, ("GET", APPLY): self._story}

    async def _apply(self, arguments: Mapping[str, Any]) -> Any:
        document = arguments.get("document")
        if not isinstance(document, dict):
            raise RefusedError("`document` is missing", 400)
        document = self._completed(document)
        try:
            config = self._configured(document)
        except DocumentError as error:
            raise RefusedError(f"this is no configuration here: {error}", 400) from None
        try:
            terms = msgspec.convert(arguments.get("terms"), Terms | None)
        except msgspec.ValidationError as error:
            raise RefusedError(f"`terms` is not what this version knows: {error}", 400) from None
        applying = self._make(document, config, arguments.get("force") is True, terms)
        differences = applying.differences()
        told = {"changes": msgspec.to_builtins(differences)}
        if arguments.get("dry") is True:
            return told | {"nodes": msgspec.to_builtins(await applying.plan()) if differences else []}
        if not differences:
            return told | {"id": None}
        await applying.begin()
        self._applying = applying
        self._task = asyncio.create_task(applying.run())
        return told | {"id": applying.story.id}

    async def _story(self, _: Mapping[str, Any]) -> Any:
        if self._applying is None:
            raise RefusedError("nothing was applied by way of this node since it was started", 404)
        return msgspec.to_builtins(self._applying.story)
