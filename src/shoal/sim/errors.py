"""Errors in vLLM's words and shapes (``vllm/entrypoints/serve/exception_handling``, 0.32)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec


class ApiError(Exception):
    """An error answer.

    Args:
        message: text for people.
        status: HTTP status.
        kind: the ``type`` of the error; the one usual for `status` if left out.
        param: name of the field at fault.
        headers: further response headers.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        kind: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind or _kind_of(status)
        self.param = param
        self.headers = headers

    def body(self) -> bytes:
        """Return the JSON of the answer."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


def _kind_of(status: int) -> str:
    match status:
        case 400:
            return "BadRequestError"
        case 404:
            return "NotFoundError"
        case 500:
            return "InternalServerError"
        case _:
            known = {entry.value: entry.phrase for entry in HTTPStatus}
            return known.get(status, "UnknownError")


class InvalidFieldError(ApiError):
    """A field of the wrong shape, said as FastAPI and pydantic say it through vLLM's handler.

    Args:
        kind: pydantic's name of the problem, such as ``int_parsing``.
        loc: dotted path of the field below ``body``, empty for the body itself.
        text: pydantic's sentence.
        value: what was there; described, never quoted at length.
        ctx: pydantic's ``ctx``, if it has one.
    """

    def __init__(
        self, kind: str, loc: str, text: str, value: object, ctx: dict[str, Any] | None = None
    ) -> None:
        where = f"body.{loc}" if loc else "body"
        problem: dict[str, Any] = {"type": kind, "loc": where, "msg": text, "input": _summary(value)}
        if ctx:
            problem["ctx"] = ctx
        super().__init__(f"1 validation error:\n  {problem}", 400, "Bad Request", where)


def _summary(value: object) -> str:
    if isinstance(value, str):
        return value if len(value) <= 200 else value[:200] + "...[truncated]"
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)[:200]


def missing(loc: str, value: object) -> InvalidFieldError:
    """Return the error for a required field that is not there; `value` is the object it is missing from."""
    return InvalidFieldError("missing", loc, "Field required", value)


def bad_parameter(message: str, param: str, value: object = None) -> ApiError:
    """Return a ``VLLMValidationError`` as clients see it: the parameter is also named in the message."""
    shown = f"parameter={param}" if value is None else f"parameter={param}, value={value}"
    return ApiError(f"{message} ({shown})", param=param)


def unknown_model(model: str, served: tuple[str, ...]) -> ApiError:
    """Return the error for a model that is not served."""
    message = f"The model `{model}` does not exist. Valid aliases: {', '.join(served)}."
    return ApiError(message, 404, param="model")


def prompt_too_long(length: int, limit: int, *, at_least: bool = False) -> ApiError:
    """Return the error for a prompt of `length` tokens, or at least as many, where `limit` is the most."""
    message = (
        f"This model's maximum context length is {limit} tokens. However, your prompt contains "
        f"{'at least ' if at_least else ''}{length} input tokens, which exceeds this limit even without any output "
        "tokens. Please reduce the length of the input prompt."
    )
    return bad_parameter(message, "input_tokens", length)
