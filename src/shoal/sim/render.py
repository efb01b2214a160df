"""Answers in OpenAI's shapes, field for field and in the order vLLM 0.32 sends them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from shoal.sim import text
from shoal.sim.generation import Generation
from shoal.sim.openai import TextRequest

VERSION = "0.32.0+sim"
FINGERPRINT = f"vllm-{VERSION}-tp1"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode
Json = dict[str, Any]


def event(data: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + _encode(data) + b"\n\n"


def logprob(token: int) -> float:
    """Return the log probability the simulated model claims for a token; it depends on the token alone."""
    return -((token * 2654435761) % 4096 + 1) / 2048


def _alternatives(token: int, count: int) -> list[int]:
    return [token, *((token + step) % text.VOCABULARY for step in range(1, count))]


class Renderer(Protocol):
    """Makes the response to one request out of its generations."""

    def start(self, generations: Sequence[Generation]) -> bytes:
        """Return what a stream begins with, sent together with the first token."""
        ...

    def delta(self, generation: Generation, ids: list[int], piece: str, done: int) -> bytes:
        """Return the events for new tokens and text; `done` counts the answer's tokens up to these."""
        ...

    def end(self, generations: Sequence[Generation]) -> bytes:
        """Return what a complete stream ends with."""
        ...

    def error(self, message: str) -> bytes:
        """Return what ends a stream whose engine failed."""
        ...

    def full(self, generations: Sequence[Generation]) -> bytes:
        """Return the body of a response that is not streamed."""
        ...


def usage_of(generations: Sequence[Generation], n: int, *, cached: bool) -> Json:
    """Return the usage over all answers; the prompt of `n` answers counts once."""
    prompt = sum(generation.request.prompt_length for generation in generations[::n])
    completion = sum(generation.count for generation in generations)
    usage: Json = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if cached:
        usage["prompt_tokens_details"] = {"cached_tokens": generations[0].request.cached}
    return usage


def _failure(message: str) -> bytes:
    error = {"message": message, "type": "InternalServerError", "param": None, "code": 500}
    return event({"error": error}) + DONE


class _OpenAIRenderer:
    object = ""

    def __init__(self, request: TextRequest, model: str, *, cached_tokens: bool) -> None:
        self._request = request
        self._cached_tokens = cached_tokens
        self._created = int(time.time())
        self._head: Json = {
            "id": request.id,
            "object": self.object,
            "created": self._created,
            "model": model,
        }

    def end(self, generations: Sequence[Generation]) -> bytes:
        request = self._request
        if not request.include_usage:
            return DONE
        usage = usage_of(generations, request.n, cached=self._cached_tokens)
        return event(self._head | {"choices": [], "usage": usage, "system_fingerprint": FINGERPRINT}) + DONE

    def error(self, message: str) -> bytes:
        return _failure(message)

    def _tail(self, generation: Generation, done: int, *, finished: bool, details: bool) -> Json:
        tail: Json = {}
        if finished and not self._request.include_usage:
            tail["system_fingerprint"] = FINGERPRINT
        if self._request.continuous_usage:
            tail["usage"] = self._usage_so_far(generation, done, details=details)
        return tail

    def _usage_so_far(self, generation: Generation, done: int, *, details: bool) -> Json:
        prompt = generation.request.prompt_length
        usage: Json = {"prompt_tokens": prompt, "total_tokens": prompt + done, "completion_tokens": done}
        if details:
            usage["completion_tokens_details"] = None
        return usage

    def _full(self, generations: Sequence[Generation], choices: list[Json], more: Json) -> bytes:
        usage = usage_of(generations, self._request.n, cached=False)
        usage["prompt_tokens_details"] = None
        if self._cached_tokens:
            cached = generations[0].request.cached
            details = {"cached_tokens": cached, "created_cache_tokens": None, "multimodal_tokens": None}
            usage["prompt_tokens_details"] = details
        usage["completion_tokens_details"] = None
        head = self._head | {"choices": choices, "service_tier": None, "system_fingerprint": FINGERPRINT}
        return _encode(head | {"usage": usage} | more)


class ChatRenderer(_OpenAIRenderer):
    """Responses of ``/v1/chat/completions``."""

    object = "chat.completion"

    def __init__(self, request: TextRequest, model: str, *, cached_tokens: bool = False) -> None:
        super().__init__(request, model, cached_tokens=cached_tokens)
        if request.stream:
            self._head["object"] = "chat.completion.chunk"

    def start(self, generations: Sequence[Generation]) -> bytes:
        """See `Renderer.start`: the role, then the echo."""
        request = self._request
        first = generations[0]
        usage: Json = {}
        if request.continuous_usage:
            usage = {"usage": self._usage_so_far(first, 0, details=True)}
        prompt: Json = {
            "prompt_token_ids": first.prompt if request.return_token_ids else None,
            "prompt_text": request.prompt_text,
        }
        events = [
            event(self._head | {"choices": [self._plain(index, role=request.role)]} | usage | prompt)
            for index in range(request.n)
        ]
        if request.echo and request.echo_text[0]:
            events += [
                event(self._head | {"choices": [self._plain(index, request.echo_text[0])]} | usage)
                for index in range(request.n)
            ]
        return b"".join(events)

    @staticmethod
    def _plain(index: int, content: str = "", role: str | None = None) -> Json:
        delta = {"content": content} if role is None else {"role": role, "content": content}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, generation: Generation, ids: list[int], piece: str, done: int) -> bytes:
        """See `Renderer.delta`."""
        finished = generation.finish_reason is not None and not generation.news
        choice: Json = {
            "index": generation.index,
            "delta": {"content": piece},
            "logprobs": self._logprobs(ids),
            "finish_reason": generation.finish_reason if finished else None,
        }
        if finished:
            choice["stop_reason"] = generation.stop_reason
        choice["token_ids"] = ids if self._request.return_token_ids else None
        tail = self._tail(generation, done, finished=finished, details=True)
        return event(self._head | {"choices": [choice]} | tail)

    def full(self, generations: Sequence[Generation]) -> bytes:
        """See `Renderer.full`."""
        request = self._request
        choices = [self._choice(generation) for generation in generations]
        more = {
            "prompt_logprobs": None,
            "prompt_token_ids": generations[0].prompt if request.return_token_ids else None,
            "prompt_text": request.prompt_text,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
        return self._full(generations, choices, more)

    def _choice(self, generation: Generation) -> Json:
        request = self._request
        content = generation.detokenizer.text
        message = {
            "role": request.role,
            "content": request.echo_text[0] + content if request.echo else content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        return {
            "index": generation.index,
            "message": message,
            "logprobs": self._logprobs(generation.answer),
            "finish_reason": generation.finish_reason,
            "stop_reason": generation.stop_reason,
            "token_ids": generation.answer if request.return_token_ids else None,
            "routed_experts": None,
        }

    def _logprobs(self, ids: Sequence[int]) -> Json | None:
        top = self._request.logprobs
        if top is None:
            return None
        return {
            "content": [
                _chat_logprob(token)
                | {"top_logprobs": [_chat_logprob(other) for other in _alternatives(token, top)[:top]]}
                for token in ids
            ]
        }


def _chat_logprob(token: int) -> Json:
    word = text.decode((token,), skip_special=True)
    return {"token": word, "logprob": logprob(token), "bytes": list(word.encode())}


class CompletionRenderer(_OpenAIRenderer):
    """Responses of ``/v1/completions``."""

    object = "text_completion"

    def __init__(self, request: TextRequest, model: str, *, cached_tokens: bool = False) -> None:
        super().__init__(request, model, cached_tokens=cached_tokens)
        self._prompt_given: set[int] = set()

    def start(self, generations: Sequence[Generation]) -> bytes:
        """See `Renderer.start`: nothing."""
        return b""

    def _echo(self, generation: Generation) -> str:
        request = self._request
        # vLLM leaves the text out when token ids are asked for.
        return "" if request.return_token_ids else request.echo_text[generation.index // request.n]

    def delta(self, generation: Generation, ids: list[int], piece: str, done: int) -> bytes:
        """See `Renderer.delta`; the first one carries echo and prompt ids."""
        request = self._request
        finished = generation.finish_reason is not None and not generation.news
        prompt_ids: list[int] | None = None
        shown = ids
        if generation.index not in self._prompt_given:
            self._prompt_given.add(generation.index)
            if request.echo:
                prompt_ids = generation.prompt
                shown = prompt_ids if request.echo_only else [*prompt_ids, *ids]
                piece = self._echo(generation) + ("" if request.echo_only else piece)
            elif request.return_token_ids:
                prompt_ids = generation.prompt
        choice: Json = {
            "index": generation.index,
            "text": piece,
            "logprobs": self._logprobs(shown),
            "finish_reason": generation.finish_reason if finished else None,
            "stop_reason": generation.stop_reason if finished else None,
            "prompt_token_ids": prompt_ids,
            "token_ids": ids if request.return_token_ids else None,
        }
        tail = self._tail(generation, done, finished=finished, details=False)
        return event(self._head | {"choices": [choice]} | tail)

    def full(self, generations: Sequence[Generation]) -> bytes:
        """See `Renderer.full`."""
        choices = [self._choice(generation) for generation in generations]
        more = {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        return self._full(generations, choices, more)

    def _choice(self, generation: Generation) -> Json:
        request = self._request
        answer = "" if request.echo_only else generation.detokenizer.text
        shown = [] if request.echo_only else generation.answer
        if request.echo:
            answer = self._echo(generation) + answer
            shown = [*generation.prompt, *shown]
        return {
            "index": generation.index,
            "text": answer,
            "logprobs": self._logprobs(shown),
            "finish_reason": generation.finish_reason,
            "stop_reason": generation.stop_reason,
            "token_ids": generation.answer if request.return_token_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": generation.prompt if request.return_token_ids else None,
            "routed_experts": None,
        }

    def _logprobs(self, ids: Sequence[int]) -> Json | None:
        count = self._request.logprobs
        if count is None:
            return None
        words = [text.decode((token,), skip_special=True) for token in ids]
        offsets = [0]
        for word in words[:-1]:
            offsets.append(offsets[-1] + len(word))
        return {
            "text_offset": offsets if words else [],
            "token_logprobs": [logprob(token) for token in ids],
            "tokens": words,
            "top_logprobs": [
                {
                    text.decode((other,), skip_special=True): logprob(other)
                    for other in _alternatives(token, max(count, 1))
                }
                for token in ids
            ],
        }
