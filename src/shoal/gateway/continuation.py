"""What to ask another engine so that it goes on where a stream has broken off. Pure.

Exact: prompt and answer go on as token ids to ``/v1/completions``, so the model sees just what it saw before. Where
that is not possible (no ids, tools, pictures), the text goes on: a completion's prompt with the answer behind it, or
a chat with the answer as its last message (vLLM's ``continue_final_message``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.gateway.transcript import Transcript

CHAT = b"/v1/chat/completions"
COMPLETIONS = b"/v1/completions"
_DEFAULT_MAX_TOKENS = 16  # of completions (vLLM's and OpenAI's)

# What a request for chat completions and one for completions say in the same words (vLLM 0.32, protocol.py of each).
_SHARED_NAMES = """
allowed_token_ids bad_words cache_salt frequency_penalty ignore_eos include_stop_str_in_output length_penalty
logit_bias min_p model presence_penalty priority repetition_detection repetition_penalty seed session_id
skip_special_tokens spaces_between_special_tokens stop stop_token_ids stream_interval temperature top_k top_p
user vllm_xargs watermarking
"""
_SHARED = tuple(_SHARED_NAMES.split())

# Fields that make an answer something else than text that may go on anywhere, each with its name for people.
_UNRESUMABLE = {
    "structured_outputs": "guided decoding",
    "guided_json": "guided decoding",
    "guided_regex": "guided decoding",
    "guided_choice": "guided decoding",
    "guided_grammar": "guided decoding",
    "use_beam_search": "beam search",
    "logprobs": "logprobs",
    "prompt_logprobs": "logprobs",
    "prompt_embeds": "prompt embeddings",
    "suffix": "a suffix",
    "kv_transfer_params": "disaggregated prefill",
}


class CannotResumeError(Exception):
    """Another engine cannot go on; ``str(error)`` is the reason, to follow "because"."""


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """A request that goes on where a stream broke off.

    Attributes:
        target: path to send it to.
        body: JSON.
        exact: it builds on token ids.
        tokens: tokens of the answer it builds on.
        covered: characters of the answer that these stand for.
        repeats: characters at its beginning that the client has already.
    """

    target: bytes
    body: bytes
    exact: bool
    tokens: int
    covered: int
    repeats: str


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The client's request as far as it matters here.

    Attributes:
        chat: it is for chat completions.
        fields: its body.
        usage: it wants the usage at the end,
        continuous_usage: and in every chunk.
        token_ids: it wants token ids.
    """

    chat: bool
    fields: Mapping[str, Any]
    usage: bool
    continuous_usage: bool
    token_ids: bool

    @classmethod
    def read(cls, path: bytes, body: bytes) -> Asked:
        """Read a request's body, which an engine has accepted.

        Raises:
            CannotResumeError: it is not what it should be.
        """
        try:
            fields = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise CannotResumeError("its request is in a form that only the engine understood") from None
        options = fields.get("stream_options") or {}
        return cls(
            chat=path == CHAT,
            fields=fields,
            usage=bool(options.get("include_usage")),
            continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
            token_ids=bool(fields.get("return_token_ids")),
        )

    @property
    def max_tokens(self) -> int | None:
        """Tokens the answer may have; None where only the context is the limit."""
        fields = self.fields
        if not self.chat:
            limit = fields.get("max_tokens")
            return _DEFAULT_MAX_TOKENS if limit is None else limit
        limit = fields.get("max_completion_tokens")
        return fields.get("max_tokens") if limit is None else limit

    @property
    def stop(self) -> list[str]:
        """Strings that end the answer."""
        stop = self.fields.get("stop") or []
        return [stop] if isinstance(stop, str) else [s for s in stop if s]


def refuse(asked: Asked, said: Transcript) -> None:
    """Return if a stream can be continued at all.

    Raises:
        CannotResumeError: it cannot.
    """
    fields = asked.fields
    if said.overflown:
        raise CannotResumeError("it is longer than recovery.resume_buffer")
    for name, what in _UNRESUMABLE.items():
        value = fields.get(name)
        if value is not None and value is not False:
            raise CannotResumeError(f"it was asked for with {what}")
    if said.several or (fields.get("n") or 1) != 1 or (fields.get("best_of") or 1) != 1:
        raise CannotResumeError("it has several choices")
    kind = fields.get("response_format")
    if kind and kind.get("type") != "text":
        raise CannotResumeError("it was asked for with guided decoding")
    if said.tool_calls or fields.get("tool_choice") not in (None, "auto", "none"):
        raise CannotResumeError("it calls a tool")
    if fields.get("echo"):
        raise CannotResumeError("it repeats its prompt")
    if said.last_reasoning:
        raise CannotResumeError("it broke off while the model was reasoning")
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and (len(prompt) != 1 or isinstance(prompt[0], list)) and not _is_ids(prompt):
        raise CannotResumeError("it has several prompts")


def exhausted(asked: Asked, said: Transcript, max_model_len: int | None) -> bool:
    """Whether the answer already has all the tokens it may have, so that nothing is left to be generated."""
    used, covered = safe_point(asked, said) if said.ids else (said.counted, said.chars)
    limit = asked.max_tokens
    full = max_model_len is not None and (said.prompt_tokens or 0) + used >= max_model_len
    return covered == said.chars and (full or (limit is not None and used >= limit))


def continuation(
    asked: Asked, said: Transcript, *, exact: bool, token_ids: bool, max_model_len: int | None
) -> Continuation:
    """Return the request that goes on from what was said.

    Args:
        asked: the client's request; `refuse` has not refused it.
        said: what its stream has said.
        exact: go on from token ids if that is possible.
        token_ids: the engine that will get it gives token ids when asked to.
        max_model_len: its context length, tokens; None when not known.

    Raises:
        CannotResumeError: there is no way.
    """
    if exact and token_ids and said.prompt_ids and not _needs_template(asked):
        limit = asked.max_tokens
        if limit is None and max_model_len is not None:
            limit = max_model_len - len(said.prompt_ids)
        if limit is not None:
            return _from_ids(asked, said, limit)
    return _from_text(asked, said)


def _is_ids(prompt: list[Any]) -> bool:
    return all(isinstance(item, int) for item in prompt)


def _needs_template(asked: Asked) -> bool:
    """Whether the prompt is more than tokens (pictures, sounds), or the answer must be parsed (tools)."""
    if not asked.chat:
        return False
    if asked.fields.get("tools") and asked.fields.get("tool_choice") != "none":
        return True
    for message in asked.fields.get("messages") or ():
        content = message.get("content")
        if isinstance(content, list) and any(
            isinstance(part, dict) and part.get("type", "text") != "text" for part in content
        ):
            return True
    return False


def safe_point(asked: Asked, said: Transcript) -> tuple[int, int]:
    """Return from where the answer can be generated again: a number of token ids, and of characters they stand for.

    Text comes in whole characters, so with the last chunk that had text, token ids and text agree; ids behind it are
    the beginning of a character and are generated anew. With stop strings, vLLM holds back as many characters as
    might begin one (the longest string less one), so the text is behind the ids by that much; where the stop string
    is to be part of the answer nothing is held back, but it may have begun before the break. Either way the answer is
    generated again from so far back that a stop string lies wholly in what is generated.
    """
    hold = max(map(len, asked.stop), default=1) - 1
    behind = 0 if asked.fields.get("include_stop_str_in_output") else hold
    for ids, chars in zip(reversed(said.mark_ids), reversed(said.mark_chars), strict=True):
        if chars <= said.chars - hold:
            return ids, chars + behind
    return 0, 0


def _from_ids(asked: Asked, said: Transcript, limit: int) -> Continuation:
    assert said.prompt_ids is not None
    tokens, covered = safe_point(asked, said)
    fields = {name: asked.fields[name] for name in _SHARED if name in asked.fields}
    fields |= {
        "prompt": [*said.prompt_ids, *said.ids[:tokens]],
        "max_tokens": limit - tokens,
        "min_tokens": max(0, (asked.fields.get("min_tokens") or 0) - tokens),
        "stream": True,
        "stream_options": {
            "include_usage": True,
            "continuous_usage_stats": asked.continuous_usage or said.with_usage,
        },
        "return_token_ids": True,
    }
    return Continuation(
        target=COMPLETIONS,
        body=msgspec.json.encode(fields),
        exact=True,
        tokens=tokens,
        covered=covered,
        repeats=said.text[covered:],
    )


def _from_text(asked: Asked, said: Transcript) -> Continuation:
    if said.reasoning:
        raise CannotResumeError("its reasoning is not part of its text")
    if asked.stop and asked.fields.get("include_stop_str_in_output"):
        raise CannotResumeError("a stop string might begin before the break and end behind it")
    fields = dict(asked.fields)
    text = said.text
    if asked.chat:
        messages = list(fields["messages"])
        if fields.get("continue_final_message") and messages:
            messages[-1] = messages[-1] | {"content": _content_text(messages[-1].get("content")) + text}
        elif text:
            messages.append({"role": "assistant", "content": text})
        if text:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        fields["messages"] = messages
    elif isinstance(fields.get("prompt"), str):
        fields["prompt"] += text
    elif isinstance(fields.get("prompt"), list) and isinstance(fields["prompt"][0], str):
        fields["prompt"] = fields["prompt"][0] + text
    elif text:
        raise CannotResumeError("its prompt is token ids and its answer text")
    limit = asked.max_tokens
    if limit is not None:
        fields.pop("max_completion_tokens", None)
        fields["max_tokens"] = max(1, limit - said.spoken)
    if fields.get("min_tokens"):
        fields["min_tokens"] = max(0, fields["min_tokens"] - said.spoken)
    fields["stream_options"] = (fields.get("stream_options") or {}) | {"include_usage": True}
    return Continuation(
        target=CHAT if asked.chat else COMPLETIONS,
        body=msgspec.json.encode(fields),
        exact=False,
        tokens=said.spoken,
        covered=said.chars,
        repeats="",
    )


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list) and all(
        isinstance(p, dict) and isinstance(p.get("text"), str) for p in content
    ):
        return "".join(p["text"] for p in content)
    raise CannotResumeError("the message it continues is more than text")
