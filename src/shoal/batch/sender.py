"""Sends the requests of batches through the node's own gateway, and again when that helps."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable

import httpx
import msgspec

from shoal.batch.lines import Line

_PATIENT = frozenset((408, 425, 429, 503))  # of the cluster's load and state, and not of the request
_FAILURES = frozenset((500, 502, 504))  # perhaps of the request: it may be what kills engines
_MOST_FAILURES = 8
_FIRST_DELAY = 0.25  # s
_LONGEST_DELAY = 15.0  # s
_TIMEOUT = httpx.Timeout(None, connect=5.0)  # a batch request may wait for hours behind others


class Answer(msgspec.Struct, frozen=True):
    """What an engine, or the gateway, has said to a request for good.

    Attributes:
        status: HTTP status.
        request_id: names the request in the logs of the engine, "" if the answer does not say.
        body: of the answer.
    """

    status: int
    request_id: str
    body: bytes


def is_final(status: int, failures: int) -> bool:
    """Return whether a request is not to be sent again.

    Args:
        status: of its last answer.
        failures: how many of its answers may have been its own fault.
    """
    return status not in _PATIENT and (status not in _FAILURES or failures >= _MOST_FAILURES)


def delay(attempt: int, retry_after: str | None, chance: float) -> float:
    """Return the seconds until a request is sent again.

    Args:
        attempt: how often it has been sent.
        retry_after: what the answer said about it, as in HTTP.
        chance: from 0 to 1, so that not all come back at once.
    """
    wait: float = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(attempt - 1, 10)) * (0.5 + chance)
    with contextlib.suppress(ValueError, TypeError):
        wait = max(wait, min(60.0, float(retry_after or 0)) * (1 + chance / 4))
    return wait


class Sender:
    """Connections to the node's gateway.

    Args:
        url: returns where it is, on loopback.
        credential: returns what is shown it for requests of an API key, None where it asks for nothing.
    """

    def __init__(self, url: Callable[[], str], credential: Callable[[str], str | None]) -> None:
        self._url = url
        self._credential = credential
        # A pool of connections searches all of them for each request; so each request in flight has one of its own.
        self._idle: list[httpx.AsyncClient] = []
        # On loopback nobody is between the node and its own gateway, whatever name its certificate has.
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    async def close(self) -> None:
        """Close all connections that nobody uses."""
        idle, self._idle = self._idle, []
        for client in idle:
            await client.aclose()

    async def send(self, endpoint: str, line: Line, key: str) -> Answer:
        """Return the answer to a request; patient, since batches are. Cancel it to give up.

        Args:
            endpoint: path of the API.
            line: the request.
            key: name of the API key it is for, "" for none.
        """
        attempt = failures = 0
        while True:
            attempt += 1
            retry_after = None
            with contextlib.suppress(httpx.RequestError):
                response = await self._once(endpoint, line, key)
                failures += response.status_code in _FAILURES
                if is_final(response.status_code, failures):
                    request_id = response.headers.get("x-request-id", "")
                    return Answer(response.status_code, request_id, response.content)
                retry_after = response.headers.get("retry-after")
            await asyncio.sleep(delay(attempt, retry_after, random.random()))

    async def _once(self, endpoint: str, line: Line, key: str) -> httpx.Response:
        headers = {"content-type": "application/json", "x-shoal-priority": "batch"}
        credential = self._credential(key)
        if credential is not None:
            headers["authorization"] = f"Bearer {credential}"
        client = self._idle.pop() if self._idle else httpx.AsyncClient(
            verify=self._tls, timeout=_TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=1)
        )  # fmt: skip
        try:
            response = await client.post(self._url() + endpoint, content=line.body, headers=headers)
        except BaseException:
            await client.aclose()
            raise
        self._idle.append(client)
        return response
