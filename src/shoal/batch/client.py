"""A client of files and batches that tries one node after the other, as `shoal batch` needs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

_PAUSE = 1.0  # s between two rounds through all nodes
_TIMEOUT = httpx.Timeout(60.0, connect=3.0)
_PIECE = 1 << 20
_ELSEWHERE = (502, 503, 504)  # another node may answer where one says this


class RefusedError(Exception):
    """The cluster refused a request; ``str()`` says why, for people.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NobodyAnswersError(Exception):
    """No node answered for too long; ``str()`` says what was tried."""


class Way:
    """How one node is reached.

    Args:
        name: of the node, for people.
        client: with its base URL and its credentials.
    """

    def __init__(self, name: str, client: httpx.Client) -> None:
        self.name = name
        self.client = client


class Client:
    """Asks whichever node answers.

    Args:
        ways: to the nodes, the best first.
        patience: seconds without any answer before it gives up.
        waiting: called with a sentence when no node answers, before it goes on trying.
    """

    def __init__(
        self, ways: Sequence[Way], *, patience: float = 120.0, waiting: Callable[[str], None] = lambda _: None
    ) -> None:
        self._ways = list(ways)
        self._patience = patience
        self._waiting = waiting

    def upload(self, path: Path, name: str) -> str:
        """Upload an input file and return its id."""
        with path.open("rb") as file:

            def send(client: httpx.Client) -> httpx.Response:
                file.seek(0)
                # The time-out is for a pause, not for the whole: ten gigabytes take as long as they take.
                return client.post("/v1/files", data={"purpose": "batch"}, files={"file": (name, file)})

            return str(self._ask(send)["id"])

    def create(self, file_id: str, endpoint: str, window: str, metadata: dict[str, str]) -> dict[str, Any]:
        """Make a batch of an uploaded file."""
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": metadata,
        }
        return self._ask(lambda client: client.post("/v1/batches", json=body))

    def batch(self, id_: str) -> dict[str, Any]:
        """Return a batch."""
        return self._ask(lambda client: client.get(f"/v1/batches/{id_}"))

    def cancel(self, id_: str) -> dict[str, Any]:
        """Cancel a batch and return it."""
        return self._ask(lambda client: client.post(f"/v1/batches/{id_}/cancel"))

    def batches(self, most: int) -> Iterator[dict[str, Any]]:
        """Yield the last batches, the newest first."""
        after: dict[str, str] = {}
        while most > 0:
            page = self._page({"limit": str(min(100, most)), **after})
            yield from page["data"]
            most -= len(page["data"])
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    def _page(self, params: dict[str, str]) -> dict[str, Any]:
        return self._ask(lambda client: client.get("/v1/batches", params=params))

    def download(self, file_id: str, target: Path) -> None:
        """Write the content of a file to the end of another one, all of it or nothing."""
        begin = target.stat().st_size if target.exists() else 0

        def fetch(client: httpx.Client) -> httpx.Response:
            with client.stream("GET", f"/v1/files/{file_id}/content") as response:
                if response.status_code != 200:
                    response.read()
                    return response
                with target.open("ab") as file:
                    file.truncate(begin)
                    for piece in response.iter_bytes(_PIECE):
                        file.write(piece)
                return httpx.Response(200, json={})

        self._ask(fetch)

    def _ask(self, ask: Callable[[httpx.Client], httpx.Response]) -> dict[str, Any]:
        """Return the JSON that the first node answers which answers.

        Raises:
            RefusedError: it refused.
            NobodyAnswersError: none did.
        """
        give_up = time.monotonic() + self._patience
        told = False
        while True:
            tried = []
            for way in list(self._ways):
                try:
                    response = ask(way.client)
                except httpx.HTTPError as error:
                    tried.append(f"  {way.name}: {str(error) or type(error).__name__}")
                    continue
                if response.status_code in _ELSEWHERE or response.status_code == 429:
                    tried.append(f"  {way.name}: {_message(response)}")
                    continue
                self._ways.remove(way)  # whoever has answered is asked first the next time
                self._ways.insert(0, way)
                if response.status_code >= 400:
                    raise RefusedError(response.status_code, _message(response))
                found: dict[str, Any] = response.json()
                return found
            if time.monotonic() > give_up:
                raise NobodyAnswersError("no node answers; tried:\n" + "\n".join(tried))
            if not told:
                told = True
                self._waiting("no node answers; trying on")
            time.sleep(_PAUSE)


def timeout() -> httpx.Timeout:
    """Return how long a node may take."""
    return _TIMEOUT


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {response.status_code}"
