"""Prometheus' text format handled as text: labels added to every series, and several documents merged into one.

Parsing vLLM's 650 lines into objects takes 10 ms; this takes a fraction of one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def escaped(value: str) -> str:
    """Return a label's value as it stands between the quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


class Document:
    """A text of metrics, its families in the order in which they first came; each is in one piece, as it must be."""

    def __init__(self) -> None:
        self._heads: dict[str, list[str]] = {}
        self._samples: dict[str, list[str]] = {}

    def add(
        self,
        text: str,
        labels: Mapping[str, str] | None = None,
        *,
        rename: Mapping[str, str] | None = None,
        wanted: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Add the families of a text.

        Args:
            text: in Prometheus' text format, families in one piece each.
            labels: added to each series.
            rename: labels that get another name, so that they do not clash with those added.
            wanted: says by its name whether a family is taken.
        """
        added = ",".join(f'{name}="{escaped(value)}"' for name, value in (labels or {}).items())
        samples: list[str] | None = None
        family = ""
        for line in text.splitlines():
            if line.startswith("# HELP ") or line.startswith("# TYPE "):
                name = line.split(" ", 3)[2]
                if name != family:
                    family, samples = name, None
                    if wanted(name):
                        samples = self._samples.setdefault(name, [])
                heads = self._heads.setdefault(name, []) if samples is not None else []
                if not any(head[:7] == line[:7] for head in heads):
                    heads.append(line)
            elif line and not line.startswith("#") and samples is not None:
                samples.append(_labelled(line, added, rename))

    def text(self) -> str:
        """Return the whole; families without a series are left out."""
        lines: list[str] = []
        for name, samples in self._samples.items():
            if samples:
                lines += self._heads.get(name, ())
                lines += samples
        return "\n".join(lines) + "\n"


def _labelled(line: str, added: str, rename: Mapping[str, str] | None) -> str:
    brace = line.find("{")
    if brace < 0:
        name, _, value = line.partition(" ")
        return f"{name}{{{added}}} {value}" if added else line
    if rename:
        end = line.rindex("}")
        labels = _LABEL.sub(lambda m: f'{rename.get(m[1], m[1])}="{m[2]}"', line[brace + 1 : end])
        line = f"{line[: brace + 1]}{labels}{line[end:]}"
    if not added:
        return line
    comma = "" if line[brace + 1] == "}" else ","
    return f"{line[: brace + 1]}{added}{comma}{line[brace + 1 :]}"


def merged(texts: Iterable[str]) -> str:
    """Return several texts as one."""
    document = Document()
    for text in texts:
        document.add(text)
    return document.text()
