"""Questions to an engine over HTTP: does it answer, does it compute, what does it serve, how busy is it.

Each question takes a connection of its own: what is asked is also whether the engine still accepts any.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx
import msgspec

from shoal.engine import metrics
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
    ) -> None:
        """Prepare to ask.

        Args:
            base_url: ``http://host:port``, with a path if the engine is behind one.
            model: id the engine serves the model under.
            api_key: sent as a bearer token.
            timeout: seconds an answer may take in all.
            tls: for https, in place of the system's trust.
            server_name: for https, name that the certificate must have, in place of the URL's host.
        """
        self._model = model
        self._timeout = timeout
        self._canary: str | None = None
        self._extensions = {} if server_name is None else {"sni_hostname": server_name}
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout,
            limits=httpx.Limits(max_keepalive_connections=0),
            verify=tls or base_url.startswith("https:"),  # loading the certificates takes 20 ms
            trust_env=False,  # no proxy stands between a node and its engines
        )

    async def close(self) -> None:
        """Let go of what asking took."""
        await self._client.aclose()

    async def __aenter__(self) -> Probe:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def health(self) -> float:
        """Ask ``/health`` and return the seconds it took.

        A good answer means little: vLLM's server answers 200 as long as it has not *noticed* that its core is dead,
        and always while it hangs. See `canary` and `Load.progress`.
        """
        begun = time.monotonic()
        await self._ask("GET", "/health")
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
                if error.status in {404, 405}:
                    continue
                raise
            self._canary = endpoint
            return endpoint
        served = await self.models()
        if self._model not in {model.id for model in served}:
            names = ", ".join(model.id for model in served) or "nothing"
            raise ProbeError(f"does not serve {self._model} but {names}")
        return "/v1/models"

    async def models(self) -> tuple[ServedModel, ...]:
        """Return what the engine lists under ``/v1/models``, LoRA adapters included."""
        answer = await self._ask("GET", "/v1/models")
        try:
            return tuple(msgspec.json.decode(answer, type=_Models).data)
        except msgspec.MsgspecError as error:
            raise ProbeError(f"answered /v1/models with something else: {error}") from error

    async def load(self) -> Load:
        """Return what the engine is doing, from its ``/metrics``."""
        return metrics.parse((await self._ask("GET", "/metrics")).decode(errors="replace"))

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        begun = time.monotonic()
        try:
            # httpx limits each read by itself; a trickle would never end.
            async with asyncio.timeout(self._timeout):
                response = await self._client.request(method, path, json=body, extensions=self._extensions)
        except (TimeoutError, httpx.TimeoutException):
            raise ProbeError(f"gave no answer to {path} within {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            what = (
                "refused the connection" if isinstance(error, httpx.ConnectError) else "broke the connection"
            )
            passed = time.monotonic() - begun
            raise ProbeError(f"{what} for {path} after {passed:.1f} s ({_reason(error)})") from error
        if response.status_code != 200:
            raise ProbeError(
                f"answered {path} with {response.status_code}: {_message(response)}", response.status_code
            )
        return response.content


def _message(response: httpx.Response) -> str:
    """Return what an error response says: OpenAI's form, FastAPI's, or else its beginning."""
    try:
        body = response.json()
        error = body.get("error", body.get("detail", ""))
        text = error.get("message", "") if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:300] or response.reason_phrase


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
