"""Requests as policies see them, without a gateway."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.routing.prompt import Prompt, chain


@dataclass
class FakeAsk:
    """A request that says what a test has it say."""

    text: bytes = b""
    key: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    work: int = 0

    def session(self) -> bytes:
        return self.key

    def prompt(self) -> Prompt:
        return chain(self.text)

    def header(self, name: bytes) -> bytes:
        return self.headers.get(name, b"")


ASK = FakeAsk()
