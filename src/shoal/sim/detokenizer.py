"""From tokens to streamed text, as vLLM does it: whole characters only, stop strings honoured.

Mirrors ``vllm/v1/engine/detokenizer.py`` (0.32) and the ``DecodeStream`` of Hugging Face's tokenizers beneath it.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.sim import text

_REPLACEMENT = "\ufffd"


class DecodeStream:
    """Turns tokens into text one by one; gives nothing while a character is unfinished.

    A prompt that ends inside a character is given out again, whole, in front of the first complete text. That is what
    real vLLM does with such token-id prompts (measured on 0.32), so whoever continues an answer has to expect it.
    """

    __slots__ = ("_held",)

    def __init__(self, prompt: Sequence[int]) -> None:
        tail = text.decode_bytes(prompt[-4:], skip_special=True).decode("utf-8", "replace")
        self._held = text.decode_bytes(prompt, skip_special=True) if tail.endswith(_REPLACEMENT) else b""

    def step(self, token: int) -> str:
        """Take one more token and return the text that is now complete, possibly none."""
        if text.is_special(token):
            return ""
        data = text.token_bytes(token)
        if self._held:
            data = self._held + data
        elif data.isascii():
            return data.decode("ascii")
        out = data.decode("utf-8", "replace")
        if out.endswith(_REPLACEMENT):
            self._held = data
            return ""
        self._held = b""
        return out


class Detokenizer:
    """Collects the text of one answer and looks for stop strings.

    Args:
        prompt: token ids of the prompt.
        stop: strings that end the answer.
        include_stop: keep the stop string in the text.
        min_tokens: stop strings are looked for only after this many tokens.
    """

    __slots__ = (
        "_given",
        "_hold_back",
        "_include_stop",
        "_min_tokens",
        "_stop",
        "_stream",
        "_tokens",
        "text",
    )

    def __init__(
        self,
        prompt: Sequence[int],
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self.text = ""
        self._stream = DecodeStream(prompt)
        self._stop = stop
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._tokens = 0
        self._given = 0
        # What may be the beginning of a stop string is not streamed out yet.
        self._hold_back = max(map(len, stop)) - 1 if stop and not include_stop else 0

    def push(self, token: int) -> str | None:
        """Add a token; return the stop string it completed, if any (the text is then cut as the request asks)."""
        self._tokens += 1
        piece = self._stream.step(token)
        self.text += piece
        if not self._stop or not piece or self._tokens <= self._min_tokens:
            return None
        return self._find_stop(len(piece))

    def skip(self) -> None:
        """Count a token that ends the answer and is no part of its text (EOS, a stop token)."""
        self._tokens += 1

    def _find_stop(self, new_characters: int) -> str | None:
        best: tuple[int, int, str] | None = None
        for stop in self._stop:
            start = max(0, len(self.text) - new_characters - len(stop) + 1)
            index = self.text.find(stop, start)
            if index >= 0 and (best is None or index + len(stop) < best[0]):
                best = (index + len(stop), index, stop)
        if best is None:
            return None
        end, index, stop = best
        self.text = self.text[: end if self._include_stop else index]
        return stop

    def take(self, *, finished: bool) -> str:
        """Return the text that may be streamed out and has not been given yet."""
        end = len(self.text) if finished else len(self.text) - self._hold_back
        if end <= self._given:
            return ""
        piece = self.text[self._given : end]
        self._given = end
        return piece
