"""Batches whose every right answer is known: the simulated model gives the same in every process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai

from shoal.sim.detokenizer import Detokenizer
from shoal.sim.openai import Service, TextRequest, parse_chat, parse_completion
from shoal.sim.text import EOS, Continuation
from support.cluster import Cluster
from support.wait import wait_until

MODEL = "sim-model"
URL = "/v1/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
_SERVICE = Service((MODEL,), 32768)


def body(number: int, tokens: int) -> dict[str, Any]:
    """Return the request of a line."""
    return {"model": MODEL, "prompt": f"question {number}", "max_tokens": tokens, "ignore_eos": True}


def line(number: int, tokens: int = 10) -> str:
    """Return a line of a batch's input."""
    request = {"custom_id": f"r{number}", "method": "POST", "url": URL, "body": body(number, tokens)}
    return json.dumps(request) + "\n"


def right_answer(number: int, tokens: int = 10) -> str:
    """Return the text that must come back for a line."""
    return _right(parse_completion(body(number, tokens), {}, _SERVICE), tokens)


def right_chat(chat: dict[str, Any]) -> str:
    """Return the text that must come back for a chat that ends with its last token."""
    return _right(parse_chat(chat, {}, _SERVICE), chat["max_tokens"])


def _right(request: TextRequest, tokens: int) -> str:
    (prompt,), (sampling,) = request.prompts, request.samplings
    model = Continuation(prompt)
    detokenizer = Detokenizer(prompt, sampling.stop, include_stop=False, min_tokens=tokens)
    for _ in range(tokens):
        token = model.next(eos=False)
        assert token != EOS
        detokenizer.push(token)
    return detokenizer.text


def write(path: Path, lines: int, tokens: int = 10) -> Path:
    """Write an input file and return its path."""
    path.write_text("".join(line(number, tokens) for number in range(lines)))
    return path


def client(cluster: Cluster, index: int, key: str = "unused") -> openai.OpenAI:
    """Return the official client of a node."""
    return openai.OpenAI(base_url=cluster.url(index, "/v1"), api_key=key, max_retries=0, timeout=30)


def submit(client: openai.OpenAI, path: Path, window: str = "24h") -> Any:
    """Upload a file and make a batch of it."""
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    return client.batches.create(input_file_id=uploaded.id, endpoint=URL, completion_window=window)


def seen(cluster: Cluster, id_: str, nodes: list[int] | None = None) -> Any:
    """Return a batch as the first node says that answers, None if none does."""
    for index in nodes if nodes is not None else list(cluster.processes):
        try:
            return client(cluster, index).batches.retrieve(id_)
        except openai.OpenAIError:
            continue
    return None


def wait_ended(cluster: Cluster, id_: str, deadline: float = 60) -> Any:
    """Wait until a batch has ended and return it."""

    def ended() -> Any:
        batch = seen(cluster, id_)
        return batch if batch is not None and batch.status in ENDED else None

    return wait_until(ended, deadline, f"{id_} has ended", every=0.2)


def results(cluster: Cluster, file_id: str, index: int = 0) -> list[dict[str, Any]]:
    """Return the lines of an output or error file."""
    return [json.loads(text) for text in client(cluster, index).files.content(file_id).text.splitlines()]


def require_right(found: list[dict[str, Any]], lines: int, tokens: int = 10) -> None:
    """Fail unless each line is there exactly once, with the right answer."""
    assert sorted(r["custom_id"] for r in found) == sorted(f"r{n}" for n in range(lines))
    for result in found:
        number = int(result["custom_id"][1:])
        assert result["response"]["body"]["choices"][0]["text"] == right_answer(number, tokens)
