"""What is asked, of whom, when: sessions of requests that build on each other. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

MODEL = "bench"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session.

    Attributes:
        wait: seconds from the end of the answer before it; of the first one from the start of the session.
        text: what is new: the user's message or a tool's result; in a completion the whole prompt.
        answer: tokens to generate, exactly.
    """

    wait: float
    text: str
    answer: int


@dataclass(frozen=True, slots=True)
class Session:
    """Requests that follow each other, each with everything before it as its beginning.

    Attributes:
        name: different from all others; sent as ``user``.
        start: seconds from the start of the workload.
        system: first message of a chat; None for plain completions.
        turns: at least one.
    """

    name: str
    start: float
    system: str | None
    turns: Sequence[Turn]


@dataclass(frozen=True)
class Workload:
    """A complete load.

    Attributes:
        name: in tables.
        sessions: by their start.
        seed: what it was made from, beside its parameters.
        about: what it is, a sentence with the parameters in it.
        lengths: prompt and answer tokens of the requests, for the description.
    """

    name: str
    sessions: Sequence[Session]
    seed: int
    about: str = ""

    @property
    def requests(self) -> int:
        """How many requests it has."""
        return sum(len(session.turns) for session in self.sessions)


@dataclass(slots=True)
class Progress:
    """How far a session has come.

    Args:
        session: which.
    """

    session: Session
    done: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.session.system is not None:
            self.messages.append({"role": "system", "content": self.session.system})

    @property
    def turn(self) -> Turn | None:
        """The next request's part that is new; None after the last."""
        return self.session.turns[self.done] if self.done < len(self.session.turns) else None

    def ask(self) -> tuple[str, bytes]:
        """Return path and JSON body of the next request."""
        turn = self.session.turns[self.done]
        body: dict[str, Any] = {"model": MODEL, "user": self.session.name, "max_tokens": turn.answer}
        body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        if self.session.system is None:
            return "/v1/completions", _encode(body | {"prompt": turn.text})
        self.messages.append({"role": "user", "content": turn.text})
        return "/v1/chat/completions", _encode(body | {"messages": self.messages})

    def answered(self, text: str) -> None:
        """Take the answer to what was asked last."""
        if self.session.system is not None:
            self.messages.append({"role": "assistant", "content": text})
        self.done += 1


def gateway_of(session: str, turn: int, gateways: int, seed: int) -> int:
    """Return which of several gateways gets a request: any, as behind a load balancer that knows nothing of it."""
    return random.Random(f"{seed} {session} {turn}").randrange(gateways)
