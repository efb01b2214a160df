"""What a policy may ask of a request. Nothing of it is computed until it is asked for."""

from __future__ import annotations

from typing import Protocol

from shoal.routing.prompt import Prompt


class Ask(Protocol):
    """A request that wants an engine.

    Attributes:
        work: bytes of the prompt that the engine a policy has picked must compute anew. Policies that know write it; it
            counts as the engine's open work until the first byte of the answer.
    """

    work: int

    def session(self) -> bytes:
        """Return what requests of one conversation or client share, ``b""`` when there is nothing.

        The first of: the session header (``routing.session_header``), the body's ``prompt_cache_key`` or ``user``,
        the bearer token.
        """
        ...

    def prompt(self) -> Prompt:
        """Return the prompt's block hashes and size; an empty one for requests without a prompt."""
        ...

    def header(self, name: bytes) -> bytes:
        """Return the value of the first header of this lower-case name, ``b""`` without one."""
        ...
