"""Embeddings, scores and classes: deterministic answers in the shapes of vLLM's pooling models."""

from __future__ import annotations

import base64
import math
import struct
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import shake_128
from typing import Any

from shoal.sim import chat, text
from shoal.sim.errors import ApiError, InvalidFieldError, bad_parameter, missing, prompt_too_long
from shoal.sim.fields import Fields
from shoal.sim.openai import Service, read_prompts, request_id

_LABELS = ("LABEL_0", "LABEL_1")
_MOST_WORDS = 512


@dataclass(frozen=True, slots=True)
class PoolingRequest:
    """A request that needs prompts computed and nothing generated.

    Attributes:
        id: id of the answer.
        prompts: token ids that count as work.
        respond: makes the JSON of the answer.
    """

    id: str
    prompts: list[list[int]]
    respond: Respond


class Respond:
    """Makes the answer once the work is done. Called without arguments; see subclasses."""

    def __call__(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        raise NotImplementedError


def vector(tokens: Sequence[int], size: int) -> list[float]:
    """Return a unit vector that depends on the words of a text, so that texts with equal words are close.

    Args:
        tokens: the text; only its 512 most frequent tokens count.
        size: number of dimensions, at least 1.
    """
    total = [0.0] * size
    for token, count in Counter(tokens).most_common(_MOST_WORDS) or [(text.END_OF_TEXT, 1)]:
        for index, byte in enumerate(shake_128(b"%d" % token).digest(size)):
            total[index] += count * (byte - 127.5)
    length = math.sqrt(sum(value * value for value in total))
    return [value / length for value in total]


def similarity(one: Sequence[int], other: Sequence[int], size: int) -> float:
    """Return the cosine of the angle between two texts' vectors."""
    return sum(a * b for a, b in zip(vector(one, size), vector(other, size), strict=True))


def _usage(tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


class _PromptAnswer(Respond):
    """An answer with one entry per prompt."""

    prefix = ""

    def __init__(self, fields: Fields, headers: Mapping[bytes, bytes], service: Service, size: int) -> None:
        self.fields = fields
        self.size = size
        self.model = service.served[0]
        self.id = f"{self.prefix}-{request_id(fields, headers)}"
        self.prompts = _inputs(fields)
        service.check_model(fields.string("model"))
        for prompt in self.prompts:
            _check_length(len(prompt), service)

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of ``data``."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "list",
            "created": int(time.time()),
            "model": self.model,
            "data": self.entries(),
            "usage": _usage(sum(map(len, self.prompts))),
        }


class _Embeddings(_PromptAnswer):
    prefix = "embd"
    kind, key = "embedding", "embedding"

    def __init__(self, fields: Fields, headers: Mapping[bytes, bytes], service: Service, size: int) -> None:
        super().__init__(fields, headers, service, size)
        self.format = fields.string("encoding_format") or "float"
        if self.format not in ("float", "base64"):
            expected = "'float' or 'base64'"
            message = f"Input should be {expected}"
            raise InvalidFieldError(
                "literal_error", "encoding_format", message, self.format, {"expected": expected}
            )
        dimensions = fields.integer("dimensions")
        if dimensions is not None:
            if not 1 <= dimensions <= size:
                message = f"dimensions must be between 1 and {size}, got {dimensions}."
                raise bad_parameter(message, "dimensions", dimensions)
            self.size = dimensions

    def entries(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for index, prompt in enumerate(self.prompts):
            values: list[float] | str = vector(prompt, self.size)
            if self.format == "base64":
                values = base64.b64encode(struct.pack(f"<{self.size}f", *values)).decode()
            entries.append({"index": index, "object": self.kind, self.key: values})
        return entries


class _Pooling(_Embeddings):
    prefix = "pooling"
    kind, key = "pooling", "data"


class _Classes(_PromptAnswer):
    prefix = "classify"

    def entries(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for index, prompt in enumerate(self.prompts):
            first = 1 / (1 + math.exp(-4 * vector(prompt, 8)[0]))
            probs = [first, 1 - first]
            label = _LABELS[probs.index(max(probs))]
            entries.append({"index": index, "label": label, "probs": probs, "num_classes": len(probs)})
        return entries


class _Scores(Respond):
    def __init__(self, fields: Fields, headers: Mapping[bytes, bytes], service: Service, size: int) -> None:
        names = next((pair for pair in _PAIRS if pair[0] in fields.data), _PAIRS[0])
        self.left = [text.encode(item) for item in _texts(fields, names[0])]
        self.right = [text.encode(item) for item in _texts(fields, names[1])]
        service.check_model(fields.string("model"))
        if len(self.left) == 1:
            self.left *= len(self.right)
        if len(self.left) != len(self.right):
            raise ApiError("Input lengths must be either 1:1, 1:N or N:N")
        self.size = size
        self.model = service.served[0]
        self.id = f"score-{request_id(fields, headers)}"
        self.prompts = [[*one, *other] for one, other in zip(self.left, self.right, strict=True)]
        for prompt in self.prompts:
            _check_length(len(prompt), service)

    def scores(self) -> list[float]:
        """Return the score of each pair."""
        return [similarity(one, other, self.size) for one, other in zip(self.left, self.right, strict=True)]

    def __call__(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "list",
            "created": int(time.time()),
            "model": self.model,
            "data": [
                {"index": index, "object": "score", "score": score}
                for index, score in enumerate(self.scores())
            ],
            "usage": _usage(sum(map(len, self.prompts))),
        }


class _Ranking(_Scores):
    def __init__(self, fields: Fields, headers: Mapping[bytes, bytes], service: Service, size: int) -> None:
        self.documents = _texts(fields, "documents")
        self.top_n = fields.integer("top_n") or 0
        if self.top_n < 0:
            message = "Input should be greater than or equal to 0"
            raise InvalidFieldError("greater_than_equal", "top_n", message, self.top_n, {"ge": 0})
        pairs = {"queries": _texts(fields, "query")[:1], "documents": self.documents}
        super().__init__(Fields(fields.data | pairs), headers, service, size)

    def __call__(self) -> dict[str, Any]:
        results = [
            {
                "index": index,
                "document": {"text": self.documents[index], "multi_modal": None},
                "relevance_score": score,
            }
            for index, score in enumerate(self.scores())
        ]
        results.sort(key=lambda result: -float(result["relevance_score"]))  # type: ignore[arg-type]
        tokens = sum(map(len, self.prompts))
        return {
            "id": self.id,
            "model": self.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": results[: self.top_n or None],
        }


_PAIRS = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))
_ANSWERS: dict[str, type[_PromptAnswer] | type[_Scores]] = {
    "embeddings": _Embeddings,
    "pooling": _Pooling,
    "classify": _Classes,
    "score": _Scores,
    "rerank": _Ranking,
}


def parse_pooling(
    task: str, data: object, headers: Mapping[bytes, bytes], service: Service, size: int
) -> PoolingRequest:
    """Read the body of a pooling request.

    Args:
        task: ``embeddings``, ``pooling``, ``classify``, ``score`` or ``rerank``.
        data: decoded body.
        headers: request headers, names in lower case.
        service: what it is checked against.
        size: dimensions of the model's vectors.

    Raises:
        ApiError: 400 or 404.
    """
    answer = _ANSWERS[task](Fields(data), headers, service, size)
    return PoolingRequest(answer.id, answer.prompts, answer)


def _inputs(fields: Fields) -> list[list[int]]:
    if "messages" in fields.data and "input" not in fields.data:
        messages = chat.check_messages(fields.require("messages"))
        return [text.encode(chat.render(messages, add_generation_prompt=False))]
    prompts = read_prompts(fields, "input")
    return [text.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def _texts(fields: Fields, name: str) -> list[str]:
    if name not in fields.data:
        raise missing(name, fields.data)
    texts = fields.strings(name)
    if not texts:
        raise ApiError("At least one text element must be given")
    return list(texts)


def _check_length(length: int, service: Service) -> None:
    if length > service.max_model_len:
        raise prompt_too_long(length, service.max_model_len)
