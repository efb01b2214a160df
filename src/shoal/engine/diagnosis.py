"""What an engine's log says, in a sentence: how far loading has got, and what went wrong.

Written against the log of vLLM 0.32: ``(EngineCore pid=1) ERROR 11-24 02:30:33 [core.py:1510] message`` from its
logger (``vllm/logger.py``), bare text from everything else, tqdm's bars in between. A failing worker is reported
three times over: by itself, by the engine core ("Worker failed with error '...'"), and by the API server ("See root
cause above"), and only the first knows anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from shoal.engine import logs

_PREFIX = re.compile(
    r"^(?:\((?P<process>[^()]*)\)\s)?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d "
    r"\[[^\]]+\] ?"
)
_BAR = re.compile(r"\d+%\s?(?:\||Completed)|\d+(?:\.\d+)?(?:it/s|s/it)")
_EXCEPTION = re.compile(
    r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Exit|Interrupt|Failure|Timeout|Died|Compiler))"
    r"(?::\s*(?P<message>.*))?$"
)
_USAGE = re.compile(r"^[\w./-]+(?: [\w-]+)?: error: (?P<message>.+)$")
_FATAL = re.compile(
    r"^(?:Fatal Python error: .+|Segmentation fault.*|Killed|Aborted.*|.*: not found|.*No module named .+)$"
)
_WRAPPED = re.compile(
    r"Worker failed with error '(?P<cause>.*)', please check the stack trace above", re.DOTALL
)
_COUNT = re.compile(r"\d+ validation errors? for ")
"""The first line of pydantic's message only counts; the next one tells."""
_EMPTY_WORDS = (
    "See root cause above",
    "See stack trace (above)",
    "failed to be inspected. Please check the logs",
    "EngineDeadError",
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "KeyboardInterrupt",
    "CancelledError",
    "SystemExit",
    "CalledProcessError",
    "Error raised in subprocess",
    "AsyncLLM output_handler failed",
)
_LOST = re.compile(r"engine core exited unexpectedly")
"""Only a warning, and all there is in the log, when the core was killed."""
_DETAIL_LIMIT = 500

_PHASES = (
    (
        re.compile(r"Starting vLLM server on|Application startup complete|Uvicorn running on"),
        "starting the HTTP server",
    ),
    (re.compile(r"init engine \(.*\) took"), "engine initialised"),
    (re.compile(r"Capturing CUDA graphs.*?(?P<percent>\d+)%"), "capturing CUDA graphs"),
    (re.compile(r"Capturing CUDA graphs|Graph capturing"), "capturing CUDA graphs"),
    (re.compile(r"KV cache size:|for KV cache on node"), "creating the KV cache"),
    (re.compile(r"Warming up done|torch\.compile (?:and initial profiling )?took"), "compiled"),
    (
        re.compile(r"Warming up model for the compilation|[Dd]ynamo bytecode transform|Compiling a graph"),
        "compiling",
    ),
    (re.compile(r"^\W*Warming up|[Aa]utotuning"), "warming up"),
    (re.compile(r"Loading weights took|Model loading took"), "weights loaded"),
    (re.compile(r"Loading .*(?:shards|loader|Streamer|weights).*?(?P<percent>\d+)%"), "loading weights"),
    (re.compile(r"Starting to load model"), "loading weights"),
    (
        re.compile(
            r"^(?:Fetching \d+ files|Downloading|[\w./-]+\.(?:safetensors|bin|gguf)):.*?(?P<percent>\d+)%"
        ),
        "downloading",
    ),
    (re.compile(r"Initializing a V1 LLM engine"), "initialising the engine"),
    (re.compile(r"Resolved architecture"), "reading the model's configuration"),
)


def progress(path: Path) -> str:
    """Return how far the engine's last start has got, as in ``loading weights 50 %``; ``starting`` at first."""
    return progress_in(logs.last_start(logs.read_end(path)))


def progress_in(text: str) -> str:
    """The same as `progress`, for text."""
    for line in reversed(re.split(r"[\r\n]+", text)):
        found = _PREFIX.match(line)
        if found and found["level"] in {"ERROR", "CRITICAL"}:
            continue
        message = line[found.end() :] if found else line
        for pattern, phase in _PHASES:
            if reached := pattern.search(message):
                percent = reached.groupdict().get("percent")
                return f"{phase} {percent} %" if percent else phase
    return "starting"


def last_error(path: Path) -> str:
    """Return what the log of the last start says went wrong, in one line; ``""`` when it shows no error.

    That is the last exception or error message that says more than "see above".
    """
    return last_error_in(logs.last_start(logs.read_end(path)))


def last_error_in(text: str) -> str:
    """The same as `last_error`, for text."""
    lines = list(_messages(text))
    logged = ""
    for place in range(len(lines) - 1, -1, -1):
        level, line = lines[place]
        if error := _error(line, lines, place):
            return error[:_DETAIL_LIMIT]
        if not logged and level in {"ERROR", "CRITICAL"} and _is_sentence(line):
            logged = line
        elif not logged and (lost := _LOST.search(line)):
            logged = lost[0]
    return logged[:_DETAIL_LIMIT]


def _messages(text: str) -> Iterator[tuple[str, str]]:
    """Yield level (``""`` outside vLLM's logger) and message of each line that is no progress bar and not empty."""
    for line in re.split(r"[\r\n]+", text):
        found = _PREFIX.match(line)
        message = line[found.end() :] if found else line
        if message.strip() and not _BAR.search(message):
            yield (found["level"] if found else ""), message.rstrip()


def _error(line: str, lines: list[tuple[str, str]], place: int) -> str:
    """Return the error `line` ends a traceback with, or tells of by itself; ``""`` if none, or if it says nothing."""
    if found := _EXCEPTION.match(line):
        message = found["message"] or ""
        if _COUNT.match(message) and place + 1 < len(lines):
            message = lines[place + 1][1].strip().removeprefix("Value error, ").partition(" [type=")[0]
        if wrapped := _WRAPPED.search(message):
            return wrapped["cause"]
        error = (
            f"{found['type'].rpartition('.')[2]}: {message}" if message else found["type"].rpartition(".")[2]
        )
        return "" if any(words in error for words in _EMPTY_WORDS) else error
    if found := _USAGE.match(line):
        return found["message"]
    return line if _FATAL.match(line) else ""


def _is_sentence(line: str) -> bool:
    """Tell a message from what a traceback is made of."""
    inside = line.startswith((" ", "Traceback ", "The above exception", "During handling"))
    return not inside and not any(words in line for words in _EMPTY_WORDS)
