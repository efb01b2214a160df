"""Questions to an engine over HTTP: does it answer, does it compute, what does it serve, how busy is it.

Each look at an engine takes a connection of its own: what is asked is also whether the engine still accepts any.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shoal.engine import metrics
from shoal.engine.line import Answer, AnswerError, Line, question
from shoal.engine.metrics import Load

_TEXT = "Hello"
_CANARIES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("/v1/completions", {"prompt": _TEXT, "max_tokens": 1, "temperature": 0}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": _TEXT}], "max_tokens": 1, "temperature": 0},
    ),
    ("/v1/embeddings", {"input": _TEXT}),
    ("/pooling", {"input": _TEXT}),
    ("/classify", {"input": _TEXT}),
    ("/v1/score", {"text_1": _TEXT, "text_2": _TEXT}),
)
"""vLLM has only the routes that fit the model's task (``launchers/api_server/routers.py``); the rest answer 404."""


class ProbeError(Exception):
    """The engine did not answer as it should; its text is a sentence without the engine's name.

    Attributes:
        status: HTTP status of the answer; None if there was none.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class ServedModel(msgspec.Struct, frozen=True):
    """A model as the engine lists it.

    Attributes:
        id: name clients use.
        max_model_len: context length in tokens, None if the engine does not tell.
        parent: model that this one, a LoRA adapter, is made for; None for a model of its own.
        owned_by: ``vllm`` where vLLM serves it.
    """

    id: str
    max_model_len: int | None = None
    parent: str | None = None
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[ServedModel] = []


class Probe:
    """Asks one engine. Close it when the engine is gone (it is an async context manager, too).

    All methods raise `ProbeError` when there is no good answer, and nothing else.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 5.0,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        health: str = "/health",
        any_program: bool = False,
    ) -> None:
        """Prepare to ask.

        Args:
            base_url: ``http://host:port``, with a path if the engine is behind one.
            model: id the engine serves the model under.
            api_key: sent as a bearer token.
            timeout: seconds an answer may take in all.
            tls: for https, in place of the system's trust.
            server_name: for https, name that the certificate must have, in place of the URL's host.
            health: path that answers 200 when all is well.
            any_program: it may be other than vLLM: without ``/metrics`` or ``/v1/models``, and with its own way to say
                that it has no such endpoint.
        """
        self._model = model
        self._timeout = timeout
        self._canary: str | None = None
        self.said = ""
        """What the engine said under ``/metrics`` when it was last asked for its load."""
        url = urlsplit(base_url)
        secure = url.scheme == "https"
        self._address = url.hostname or "", url.port or (443 if secure else 80)
        self._path = url.path.rstrip("/")
        self._headers = [("host", url.netloc.rpartition("@")[2]), ("accept", "*/*"), ("user-agent", "shoal")]
        if api_key:
            self._headers.append(("authorization", f"Bearer {api_key}"))
        self._health = health
        self._any_program = any_program
        self._no_such = {400, 404, 405, 422, 501} if any_program else {404, 405}
        if not secure:
            tls = None
        elif tls is None:  # loading the system's certificates takes 20 ms
            tls = ssl.create_default_context()
        self._tls, self._server_name = tls, server_name
        self._line: Line | None = None  # kept for the next question
        self._questions: dict[str, bytes] = {}  # those without a body, by path

    async def close(self) -> None:
        """Let go of what asking took."""
        if self._line is not None:
            self._line.close()
            self._line = None

    async def __aenter__(self) -> Probe:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def health(self, *, more: bool = False) -> float:
        """Ask ``/health``, or what stands for it, over a new connection, and return the seconds it took.

        A good answer means little: vLLM's server answers 200 as long as it has not *noticed* that its core is dead,
        and always while it hangs. See `canary` and `Load.progress`.

        Args:
            more: keep the connection for the next question, which follows at once.
        """
        begun = time.monotonic()
        await self.close()
        await self._ask("GET", self._health, more=more)
        return time.monotonic() - begun

    async def canary(self) -> str:
        """Have the model compute one token, or what its kind computes, and return the endpoint that did it.

        The endpoints are tried in turn until one is there, and that one is used from then on. For a model none of them
        fits, one that takes sound for instance, it has to do that the engine lists it.
        """
        canaries = [c for c in _CANARIES if self._canary in {None, c[0]}]
        for endpoint, body in canaries:
            try:
                await self._ask("POST", endpoint, {"model": self._model, **body})
            except ProbeError as error:
                if error.status in self._no_such:
                    continue
                raise
            self._canary = endpoint
            return endpoint
        served = await self.models()
        if self._any_program:
            return self._health
        if self._model not in {model.id for model in served}:
            names = ", ".join(model.id for model in served) or "nothing"
            raise ProbeError(f"does not serve {self._model} but {names}")
        return "/v1/models"

    async def complete(self, prompt: str, max_tokens: int) -> str:
        """Return the likeliest continuation of a prompt, as the model sees it.

        A model that continues no text answers with status 404 or 405, and so does the error.
        """
        body = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        answer = await self._ask("POST", "/v1/completions", body)
        try:
            return str(msgspec.json.decode(answer)["choices"][0]["text"])
        except (msgspec.MsgspecError, LookupError, TypeError) as error:
            raise ProbeError(f"answered /v1/completions with something else: {error!r}") from error

    async def models(self) -> tuple[ServedModel, ...]:
        """Return what the engine lists under ``/v1/models``, LoRA adapters included."""
        answer = await self._ask("GET", "/v1/models", needed=not self._any_program)
        if not answer:
            return ()
        try:
            return tuple(msgspec.json.decode(answer, type=_Models).data)
        except msgspec.MsgspecError as error:
            raise ProbeError(f"answered /v1/models with something else: {error}") from error

    async def load(self) -> Load:
        """Return what the engine is doing, from its ``/metrics``."""
        answer = await self._ask("GET", "/metrics", needed=not self._any_program)
        self.said = answer.decode(errors="replace")
        return metrics.parse(self.said)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        needed: bool = True,
        more: bool = False,
    ) -> bytes:
        """Return the answer; without `needed`, b"" if the engine has no such endpoint."""
        begun = time.monotonic()
        try:
            # Reads are not limited one by one: a trickle would never end.
            async with asyncio.timeout(self._timeout):
                answer = await self._put(self._question(method, path, body), more)
        except TimeoutError:
            raise ProbeError(f"gave no answer to {path} within {self._timeout:g} s") from None
        except (OSError, AnswerError, ValueError) as error:
            refused = isinstance(error, _RefusedError)
            what = "refused the connection" if refused else "broke the connection"
            passed = time.monotonic() - begun
            raise ProbeError(f"{what} for {path} after {passed:.1f} s ({_reason(error)})") from error
        if not needed and answer.status in self._no_such:
            return b""
        if answer.status != 200:
            raise ProbeError(f"answered {path} with {answer.status}: {_message(answer)}", answer.status)
        return answer.content

    def _question(self, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        if body is not None:
            headers = [*self._headers, ("content-type", "application/json")]
            return question(method, self._path + path, headers, msgspec.json.encode(body))
        known = self._questions.get(path)
        if known is None:
            known = self._questions[path] = question(method, self._path + path, self._headers)
        return known

    async def _put(self, asked: bytes, more: bool) -> Answer:
        """Put a question over the connection that was kept, or over a new one."""
        line, self._line = self._line, None
        if line is not None and line.usable:
            try:
                return await self._over(line, asked, more)
            except (OSError, AnswerError):
                pass  # closed just now, for all that is known: a new one tells
        try:
            line = await Line.connect(*self._address, self._tls, self._server_name)
        except (ssl.SSLError, TimeoutError):
            raise
        except OSError as error:
            raise _RefusedError(_reason(error)) from error
        return await self._over(line, asked, more)

    async def _over(self, line: Line, asked: bytes, more: bool) -> Answer:
        try:
            answer = await line.ask(asked)
        except BaseException:
            line.close()
            raise
        if more and line.usable:
            self._line = line
        else:
            line.close()
        return answer


class _RefusedError(OSError):
    """There was no connection."""


def _message(response: Answer) -> str:
    """Return what an error response says: OpenAI's form, FastAPI's, or else its beginning."""
    try:
        body = json.loads(response.content)
        error = body.get("error", body.get("detail", ""))
        text = error.get("message", "") if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        text = response.content.decode(errors="replace")
    return " ".join(text.split())[:300] or response.reason


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
