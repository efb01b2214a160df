"""Sampling parameters: what ends an answer is used, the rest is checked as vLLM checks it and has no effect."""

from __future__ import annotations

import math
from typing import Any

from shoal.sim import text
from shoal.sim.errors import ApiError, InvalidFieldError, bad_parameter
from shoal.sim.fields import Fields
from shoal.sim.generation import Sampling

# Defaults of vLLM's environment variables VLLM_MAX_N_SEQUENCES and VLLM_MAX_STOP_STRINGS.
_MAX_ANSWERS = 16384
_MAX_STOPS = 4


def number_of_answers(fields: Fields) -> int:
    """Return how many answers to each prompt are asked for.

    Raises:
        ApiError: none, too many, or several with greedy sampling, which would all be equal.
    """
    value = fields.integer("n")
    n = 1 if value is None else value
    if n < 1:
        raise ApiError(f"n must be at least 1, got {n}.")
    if n > _MAX_ANSWERS:
        message = f"n must be at most {_MAX_ANSWERS}, got {n}. "
        raise ApiError(message + "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable.")
    if n > 1 and fields.number("temperature") == 0:
        raise ApiError(f"n must be 1 when using greedy sampling, got {n}.")
    return n


def parse_sampling(fields: Fields, max_tokens: int | None, room: int) -> Sampling:
    """Read how an answer is sampled.

    Args:
        fields: the request.
        max_tokens: what the request asks for, None for as much as fits.
        room: tokens the prompt leaves.

    Raises:
        ApiError: a value out of range.
    """
    limit = room if max_tokens is None else min(max_tokens, room)
    min_tokens = fields.integer("min_tokens") or 0
    _check_ranges(fields)
    if limit < 1:
        raise bad_parameter(f"max_tokens must be at least 1, got {limit}.", "max_tokens", limit)
    if min_tokens < 0:
        raise ApiError(f"min_tokens must be greater than or equal to 0, got {min_tokens}.")
    if min_tokens > limit:
        raise ApiError(f"min_tokens must be less than or equal to max_tokens={limit}, got {min_tokens}.")
    return Sampling(
        max_tokens=limit,
        min_tokens=min_tokens,
        ignore_eos=fields.boolean("ignore_eos"),
        stop=_stops(fields),
        stop_token_ids=frozenset(check_ids(fields.items("stop_token_ids") or [], "stop_token_ids")),
        include_stop=fields.boolean("include_stop_str_in_output"),
    )


def _stops(fields: Fields) -> tuple[str, ...]:
    stops = fields.strings("stop")
    if len(stops) > _MAX_STOPS:
        message = f"List should have at most {_MAX_STOPS} items after validation, not {len(stops)}"
        raise InvalidFieldError("too_long", "stop", message, list(stops))
    if "" in stops:
        raise ApiError("stop cannot contain an empty string.")
    return stops


def _check_ranges(fields: Fields) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = fields.number(name)
        if value is not None and not -2 <= value <= 2:
            raise ApiError(f"{name} must be in [-2, 2], got {value}.")
    temperature = fields.number("temperature")
    if temperature is not None:
        problem = (
            "a finite number"
            if not math.isfinite(temperature)
            else "non-negative"
            if temperature < 0
            else "in [0, 2]"
            if temperature > 2
            else ""
        )
        if problem:
            message = f"temperature must be {problem}, got {temperature}."
            raise bad_parameter(message, "temperature", temperature)
    top_p = fields.number("top_p")
    if top_p is not None and not 0 < top_p <= 1:
        raise bad_parameter(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)
    top_k = fields.integer("top_k")
    if top_k is not None and top_k < -1:
        raise ApiError(f"top_k must be 0 (disable), or at least 1, got {top_k}.")


def check_ids(ids: list[Any], loc: str) -> list[int]:
    """Return `ids` if they are token ids of the vocabulary.

    Raises:
        ApiError: one is not.
    """
    for index, token in enumerate(ids):
        if not isinstance(token, int) or isinstance(token, bool):
            raise InvalidFieldError("int_type", f"{loc}.{index}", "Input should be a valid integer", token)
        if token < 0:
            message = "Input should be greater than or equal to 0"
            raise InvalidFieldError("greater_than_equal", f"{loc}.{index}", message, token, {"ge": 0})
        if token >= text.VOCABULARY:
            raise ApiError(f"Token id {token} is out of vocabulary")
    return ids
