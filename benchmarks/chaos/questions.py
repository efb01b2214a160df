"""What clients ask, and the one right answer to it: the simulated model gives the same in every process. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from shoal.sim.detokenizer import Detokenizer
from shoal.sim.openai import Service, TextRequest, parse_chat, parse_completion
from shoal.sim.text import EOS, Continuation

MODEL = "chaos"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LEAST_TOKENS, MOST_TOKENS = 100, 300
_UNSTREAMED = 12  # one request in so many is not streamed
_SERVICE = Service((MODEL,), 32768)


@dataclass(frozen=True)
class Answer:
    """The undisturbed answer: its text, why it ends, and the tokens it counts."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Question:
    """One request.

    Attributes:
        path: `CHAT` or `COMPLETIONS`.
        body: of the request, ready for JSON.
        answer: what must come back.
    """

    path: str
    body: dict[str, Any]
    answer: Answer

    @property
    def streamed(self) -> bool:
        """Whether the answer comes as server-sent events."""
        return bool(self.body["stream"])

    @property
    def usage(self) -> bool:
        """Whether the stream ends with the usage."""
        return "stream_options" in self.body


def answer(request: TextRequest) -> Answer:
    """Return what the simulated engine answers to `request`, which has one prompt and wants one answer."""
    (prompt,), (sampling,) = request.prompts, request.samplings
    model = Continuation(prompt)
    detokenizer = Detokenizer(
        prompt, sampling.stop, include_stop=sampling.include_stop, min_tokens=sampling.min_tokens
    )
    count = 0
    while True:
        token = model.next(eos=count >= sampling.min_tokens)
        count += 1
        if token == EOS:
            return Answer(detokenizer.text, "stop", len(prompt), count)
        if detokenizer.push(token) is not None:
            return Answer(detokenizer.text, "stop", len(prompt), count)
        if count == sampling.max_tokens:
            return Answer(detokenizer.text, "length", len(prompt), count)


def question(number: int, seed: str = "", *, chat_only: bool = False) -> Question:
    """Return the request `number` of a run: always the same for the same number and seed, and unlike any other.

    Half are chats, half completions; one in three has a stop string that does occur, one in three asks for the usage,
    one in `_UNSTREAMED` is not streamed.

    Args:
        number: of the request.
        seed: of the run.
        chat_only: make all of them chats, for routers that know nothing else.
    """
    chance = random.Random(f"{seed}/{number}")
    words = " ".join(chance.choice(_WORDS) for _ in range(chance.randint(4, 30)))
    prompt = f"Question {number} of run {seed}: {words}?"
    body: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": chance.randint(LEAST_TOKENS, MOST_TOKENS),
        "min_tokens": LEAST_TOKENS,
        "temperature": 0,
        "stream": chance.randrange(_UNSTREAMED) != 0,
    }
    if chat_only or chance.random() < 0.5:
        path, parse = CHAT, parse_chat
        body["messages"] = [{"role": "system", "content": "Be odd."}, {"role": "user", "content": prompt}]
    else:
        path, parse = COMPLETIONS, parse_completion
        body["prompt"] = prompt
    if body["stream"] and chance.randrange(3) == 0:
        body["stream_options"] = {"include_usage": True}
    if chance.randrange(3) == 0:
        text = answer(parse(body, {}, _SERVICE)).text
        begin = chance.randrange(len(text) * 2 // 3, len(text) - 4)
        body["stop"] = [text[begin : begin + 4]]
    return Question(path, body, answer(parse(body, {}, _SERVICE)))


_WORDS = ("why", "where", "heron", "tide", "kelp", "鱼群", "reef", "é", "🐟", "ßhape", "潮水", "🌊")
