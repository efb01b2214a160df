"""The load generator from Python: requests as files, results as numbers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway.processes import spawn

API_KEY = "sk-bench-on-loopback"
_TEXT = "The quick brown fox jumps over the lazy dog. "
_MOST = 1_000_000  # requests in one load, however fast
_GRACE = 20.0  # seconds beyond its own limit after which a load generator counts as hung

# What the `openai` package sends with every request: routers have to read it all.
_HEAD = """\
POST /v1/chat/completions HTTP/1.1\r
Host: 127.0.0.1\r
Accept-Encoding: gzip, deflate\r
Connection: keep-alive\r
authorization: Bearer {key}\r
accept: application/json\r
content-type: application/json\r
user-agent: OpenAI/Python 3.54.0\r
x-stainless-lang: python\r
x-stainless-package-version: 3.54.0\r
x-stainless-os: Linux\r
x-stainless-arch: x64\r
x-stainless-runtime: CPython\r
x-stainless-runtime-version: 3.11.7\r
x-stainless-async: false\r
x-stainless-retry-count: 0\r
x-stainless-read-timeout: 600\r
Content-Length: {length}\r
\r
"""


class LoadError(Exception):
    """The load generator itself failed."""


@dataclass(frozen=True)
class Loaded:
    """What one run of the load generator counted.

    Attributes:
        sent: requests begun.
        completed: answered with 200, completely.
        failed: anything else.
        events: server-sent events received, ``[DONE]`` included.
        open: streams that were still running at the end.
        seconds: from the first request to the last answer.
        p50, p99: latency of a request, or time to the first event of a stream, microseconds.
        gap_p99: between two events of a stream, microseconds; 0 without streams.
        error: what the first failure was.
    """

    sent: int
    completed: int
    failed: int
    events: int
    open: int
    seconds: float
    p50: float
    p99: float
    gap_p99: float
    error: str


def parse(line: str) -> Loaded:
    """Return the result in the line that the load generator prints.

    Raises:
        LoadError: it is not such a line.
    """
    try:
        found = json.loads(line)
        return Loaded(
            **{name: found[name] for name in ("sent", "completed", "failed", "events", "open", "seconds")},
            p50=found["p50_us"],
            p99=found["p99_us"],
            gap_p99=found["gap_p99_us"],
            error=found["error"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"the load generator said {line[:200]!r}") from error


def chat_request(size: int, stream: str | None = None) -> bytes:
    """Return a complete chat request of the `openai` client.

    Args:
        size: bytes of the body.
        stream: how the fake engine is to stream the answer (see engine.c); None for an answer in one piece.
    """
    body: dict[str, object] = {
        "model": "bench",
        "messages": [{"role": "user", "content": ""}],
        "max_tokens": 64,
        "temperature": 0.7,
    }
    if stream is not None:
        body["stream"] = True
    mark = "" if stream is None else f"[[{stream}]] "
    room = size - len(json.dumps(body)) - len(mark)
    text = mark + (_TEXT * (room // len(_TEXT) + 1))[:room]
    body["messages"] = [{"role": "user", "content": text}]
    content = json.dumps(body).encode()
    return _HEAD.format(key=API_KEY, length=len(content)).encode() + content


class Load:
    """The load generator.

    Args:
        program: its executable.
        cores: where it runs.
    """

    def __init__(self, program: Path, cores: Sequence[int]) -> None:
        self._program = program
        self._cores = cores

    def requests(self, port: int, request: Path, connections: int, seconds: float, limit: float) -> Loaded:
        """Send requests on `connections` for `seconds` and wait for every answer; `limit` seconds in all."""
        return self._run("requests", port, request, connections, seconds, _MOST, limit)

    def streams(self, port: int, request: Path, streams: int, stagger_us: int, limit: float) -> Loaded:
        """Open `streams`, one each `stagger_us`, and read them to their ends or for `limit` seconds."""
        return self._run("streams", port, request, streams, stagger_us, limit)

    def hold(self, port: int, request: Path, streams: int, *, events: int, limit: float) -> Held:
        """Open `streams` within a second and keep them open once each has had `events` events."""
        arguments = ("hold", port, request, streams, 1_000_000 // streams, limit, events)
        return Held(self._start(arguments, stdin=subprocess.PIPE))

    def _start(self, arguments: Sequence[object], stdin: int) -> subprocess.Popen[bytes]:
        command = [str(self._program), *map(str, arguments)]
        return spawn(command, self._cores, stdin=stdin, stdout=subprocess.PIPE)

    def _run(self, *arguments: object) -> Loaded:
        process = self._start(arguments, subprocess.DEVNULL)
        try:
            output, _ = process.communicate(timeout=float(str(arguments[-1])) + _GRACE)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return parse(output.decode())


class Held:
    """Streams that are kept open until this context ends. Entering it waits until they are, and says how many."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def __enter__(self) -> Loaded:
        assert self._process.stdout is not None
        try:
            return parse(self._process.stdout.readline().decode())  # comes within the limit: load.c keeps it
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
