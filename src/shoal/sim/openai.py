"""OpenAI requests as vLLM takes them: bodies to prompts, sampling and everything the answer's shape depends on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.sim import chat, text
from shoal.sim.errors import ApiError, InvalidFieldError, bad_parameter, prompt_too_long, unknown_model
from shoal.sim.fields import Fields
from shoal.sim.generation import Sampling
from shoal.sim.sampling import check_ids, number_of_answers, parse_sampling

_MAX_LOGPROBS = 20
_MAX_PROMPTS = 1024
_NO_TOOLS = {
    "auto": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    "required": 'tool_choice="required" requires --tool-call-parser to be set',
}


@dataclass(frozen=True, slots=True)
class Service:
    """What requests are checked against.

    Attributes:
        served: names of the model; the first one is given in answers.
        max_model_len: tokens of prompt and answer together at most.
        auto_tools: requests may offer tools (the simulated model never calls one).
    """

    served: tuple[str, ...]
    max_model_len: int
    auto_tools: bool = False

    def check_model(self, name: str | None) -> None:
        """Raise `ApiError` (404) if `name` is not served; no name stands for the first."""
        if name and name not in self.served:
            raise unknown_model(name, self.served)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A request for text, whatever API it came by.

    Attributes:
        id: id of the answer, with its prefix.
        prompts: token ids of each prompt.
        samplings: how the answers to each prompt end.
        n: answers per prompt.
        stream: send the answer as it comes.
        include_usage: end the stream with the usage.
        continuous_usage: give the usage with every chunk.
        return_token_ids: give token ids along with text.
        echo: give the prompt (chat: the last message) in front of the answer.
        echo_text: the text to give then, for each prompt.
        echo_only: give the prompt and nothing else (``max_tokens: 0``).
        logprobs: alternatives to name for each token; None for no logprobs.
        role: role of the answer (chat).
        prompt_text: the rendered prompt, if it is to be returned (chat).
        priority: lower goes first.
        cache_salt: keeps the request's prefix cache apart.
    """

    id: str
    prompts: list[list[int]]
    samplings: list[Sampling]
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    return_token_ids: bool = False
    echo: bool = False
    echo_text: list[str]
    echo_only: bool = False
    logprobs: int | None = None
    role: str = "assistant"
    prompt_text: str | None = None
    priority: int = 0
    cache_salt: str | None = None


def parse_chat(data: object, headers: Mapping[bytes, bytes], service: Service) -> TextRequest:
    """Read the body of ``POST /v1/chat/completions``.

    Raises:
        ApiError: 400 or 404, in vLLM's words.
    """
    fields = Fields(data)
    usage = _check_stream_options(fields)
    messages = chat.check_messages(fields.require("messages"))
    tools = _check_tools(fields, service)
    wants_logprobs = fields.boolean("logprobs")
    top = fields.integer("top_logprobs") or 0
    if top and not wants_logprobs:
        raise bad_parameter("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    generation_prompt = fields.boolean("add_generation_prompt", True)
    continued = fields.boolean("continue_final_message")
    if continued and fields.get("add_generation_prompt"):
        raise ApiError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    service.check_model(fields.string("model"))
    prompt_text = chat.render(
        messages, add_generation_prompt=generation_prompt, continue_final_message=continued, tools=tools
    )
    name = "max_completion_tokens" if fields.get("max_completion_tokens") is not None else "max_tokens"
    max_tokens = fields.integer(name)
    prompt = _fitting_prompt(text.encode(prompt_text), max_tokens, name, service, from_text=True)
    role = "assistant" if generation_prompt else messages[-1]["role"]
    last = messages[-1]
    return TextRequest(
        id=f"chatcmpl-{request_id(fields, headers)}",
        prompts=[prompt],
        samplings=[parse_sampling(fields, max_tokens, service.max_model_len - len(prompt))],
        n=number_of_answers(fields),
        stream=fields.boolean("stream"),
        include_usage=usage[0],
        continuous_usage=usage[1],
        return_token_ids=fields.boolean("return_token_ids"),
        echo=fields.boolean("echo"),
        echo_text=[chat.content_text(last.get("content"), "") if last["role"] == role else ""],
        logprobs=_check_logprobs(top, "top_logprobs") if wants_logprobs else None,
        role=role,
        prompt_text=prompt_text if fields.boolean("return_prompt_text") else None,
        priority=_priority(fields, headers),
        cache_salt=fields.string("cache_salt"),
    )


def parse_completion(data: object, headers: Mapping[bytes, bytes], service: Service) -> TextRequest:
    """Read the body of ``POST /v1/completions``.

    Raises:
        ApiError: 400 or 404, in vLLM's words.
    """
    fields = Fields(data)
    usage = _check_stream_options(fields)
    if fields.get("prompt") in (None, ""):
        raise bad_parameter("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    prompts = read_prompts(fields, "prompt")
    logprobs = fields.integer("logprobs")
    service.check_model(fields.string("model"))
    if fields.get("suffix") is not None:
        raise ApiError("suffix is only supported for models with FIM completion rendering", param="suffix")
    asked = fields.integer("max_tokens")
    max_tokens = 16 if asked is None else asked
    echo = fields.boolean("echo")
    echo_only = echo and max_tokens == 0
    tokens: list[list[int]] = []
    for prompt in prompts:
        from_text = isinstance(prompt, str)
        ids = text.encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise ApiError("The decoder prompt cannot be empty")
        tokens.append(_fitting_prompt(ids, max_tokens, "max_tokens", service, from_text=from_text))
    return TextRequest(
        id=f"cmpl-{request_id(fields, headers)}",
        prompts=tokens,
        samplings=[
            parse_sampling(fields, 1 if echo_only else max_tokens, service.max_model_len - len(ids))
            for ids in tokens
        ],
        n=number_of_answers(fields),
        stream=fields.boolean("stream"),
        include_usage=usage[0],
        continuous_usage=usage[1],
        return_token_ids=fields.boolean("return_token_ids"),
        echo=echo,
        echo_text=[text.decode(ids, skip_special=True) for ids in tokens] if echo else [""] * len(tokens),
        echo_only=echo_only,
        logprobs=None if logprobs is None else _check_logprobs(logprobs, "logprobs"),
        priority=_priority(fields, headers),
        cache_salt=fields.string("cache_salt"),
    )


def read_prompts(fields: Fields, name: str) -> list[str | list[int]]:
    """Return the prompts of a field: a string, strings, token ids, or lists of token ids.

    Raises:
        ApiError: another shape, no prompt at all, or a token id that is not in the vocabulary.
    """
    value = fields.require(name)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise InvalidFieldError("string_type", name, "Input should be a valid string", value)
    if not value:
        raise ApiError("You must pass at least one prompt")
    if len(value) > _MAX_PROMPTS and not isinstance(value[0], int):
        message = f"prompt list length {len(value)} exceeds the maximum allowed count of {_MAX_PROMPTS}."
        raise bad_parameter(message, name)
    if all(isinstance(item, str) for item in value):
        return list(value)
    if all(isinstance(item, int) for item in value):
        return [check_ids(value, name)]
    for index, item in enumerate(value):
        if not isinstance(item, list):
            raise InvalidFieldError("list_type", f"{name}.{index}", "Input should be a valid list", item)
    return [check_ids(item, f"{name}.{index}") for index, item in enumerate(value)]


def request_id(fields: Fields, headers: Mapping[bytes, bytes]) -> str:
    """Return the id of a request: the header's, the body's, or a new one."""
    given = headers.get(b"x-request-id")
    if given is not None:
        return given.decode("latin-1")
    return fields.string("request_id") or secrets.token_hex(8)


def _priority(fields: Fields, headers: Mapping[bytes, bytes]) -> int:
    priority = fields.integer("priority") or 0
    header = headers.get(b"x-vllm-priority", b"").decode("latin-1").strip()
    return int(header) if header.lstrip("-").isdigit() else priority


def _check_stream_options(fields: Fields) -> tuple[bool, bool]:
    options = fields.mapping("stream_options")
    stream = fields.boolean("stream")
    if options and not stream:
        raise bad_parameter("Stream options can only be defined when `stream=True`.", "stream_options")
    inner = Fields(options or {})
    usage = inner.boolean("include_usage")
    return usage, usage and inner.boolean("continuous_usage_stats")


def _check_tools(fields: Fields, service: Service) -> list[Any] | None:
    tools = fields.items("tools")
    choice = fields.get("tool_choice")
    if tools is not None and not tools:
        message = (
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        )
        raise bad_parameter(message, "tools")
    if choice in (None, "none") and not (tools and "tool_choice" not in fields.data):
        return tools
    if not tools:
        raise bad_parameter("When using `tool_choice`, `tools` must be set.", "tool_choice")
    choice = choice or "auto"
    if choice != "auto" or not service.auto_tools:
        raise ApiError(_NO_TOOLS.get(str(choice), _NO_TOOLS["required"]))
    return tools


def _check_logprobs(asked: int, name: str) -> int:
    if asked < -1:
        raise bad_parameter(f"`{name}` must be a positive value or -1.", name, asked)
    count = text.VOCABULARY if asked == -1 else asked
    if count > _MAX_LOGPROBS:
        message = f"Requested sample logprobs of {count}, which is greater than max allowed: {_MAX_LOGPROBS}"
        raise bad_parameter(message, name, count)
    return count


def _fitting_prompt(
    ids: list[int], max_tokens: int | None, param: str, service: Service, *, from_text: bool
) -> list[int]:
    limit = service.max_model_len
    if max_tokens is not None and max_tokens > limit:
        message = f"{param}={max_tokens} cannot be greater than max_model_len={limit}. "
        message += "Please request fewer output tokens."
        raise bad_parameter(message, param, max_tokens)
    if len(ids) > limit:
        # vLLM's tokenizer stops one token behind the limit, so it does not know how long a text really is.
        count = limit + 1 if from_text else len(ids)
        raise prompt_too_long(count, limit, at_least=count == limit + 1)
    return ids
