"""Deterministic text: a reversible tokenizer and a "model" whose every token follows from the tokens before it.

The same token ids give the same continuation in every process, so an answer that was cut and continued elsewhere
can be compared byte by byte with the undisturbed one. The tokenizer is built so that this also holds for text: the
model only ever emits tokens in the form the tokenizer would produce from the joined text, so encoding prompt plus
any complete-character prefix of an answer gives back exactly the ids of that prefix.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from zlib import crc32

END_OF_TEXT = 0
TURN_START = 1
TURN_END = 2
EOS = TURN_END

_SPECIALS = {b"<|endoftext|>": END_OF_TEXT, b"<|im_start|>": TURN_START, b"<|im_end|>": TURN_END}
_SPECIAL_BYTES = {token: literal for literal, token in _SPECIALS.items()}

# Ids 3 to 258 are the bytes; then come runs of one to four lower-case letters, without and with a leading space.
_BYTES = 3
_RUNS = _BYTES + 256
_RUN_MAX = 4
_RUN_OFFSET: tuple[int, ...] = (0, 0, 26, 26 + 26**2, 26 + 26**2 + 26**3)
_RUNS_PER_KIND: int = sum(26**length for length in range(1, _RUN_MAX + 1))
VOCABULARY: int = _RUNS + 2 * _RUNS_PER_KIND

_PIECE = re.compile(rb"<\|(?:endoftext|im_start|im_end)\|>| ?[a-z]{1,4}|.", re.DOTALL)
_CACHE_LIMIT = 1 << 16


def _id_of(piece: bytes) -> int:
    special = _SPECIALS.get(piece)
    if special is not None:
        return special
    if len(piece) == 1:
        return _BYTES + piece[0]
    spaced = piece[0] == 0x20
    letters = piece[1:] if spaced else piece
    number = 0
    for letter in letters:
        number = number * 26 + letter - 0x61
    return _RUNS + spaced * _RUNS_PER_KIND + _RUN_OFFSET[len(letters)] + number


def _bytes_of(token: int) -> bytes:
    if token in _SPECIAL_BYTES:
        return _SPECIAL_BYTES[token]
    if token < _RUNS:
        return bytes((token - _BYTES,))
    spaced, number = divmod(token - _RUNS, _RUNS_PER_KIND)
    length = max(n for n in range(1, _RUN_MAX + 1) if number >= _RUN_OFFSET[n])
    number -= _RUN_OFFSET[length]
    letters = bytearray()
    for _ in range(length):
        number, letter = divmod(number, 26)
        letters.append(0x61 + letter)
    letters.reverse()
    return b" " * spaced + bytes(letters)


class _IdCache(dict[bytes, int]):
    """Piece -> id, filled on demand; emptied rather than grown without bound."""

    def __missing__(self, piece: bytes) -> int:
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        token = _id_of(piece)
        self[piece] = token
        return token


class _BytesCache(dict[int, bytes]):
    """Id -> bytes, filled on demand; emptied rather than grown without bound."""

    def __missing__(self, token: int) -> bytes:
        if not 0 <= token < VOCABULARY:
            return b""  # as vLLM's /detokenize: ids out of range stand for nothing
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        value = _bytes_of(token)
        self[token] = value
        return value


_ids = _IdCache()
_bytes = _BytesCache()


def encode(text: str) -> list[int]:
    """Return the token ids of `text`. Lone surrogates, which UTF-8 cannot hold, count as ``?``."""
    return [_ids[piece] for piece in _PIECE.findall(text.encode("utf-8", "replace"))]


def token_bytes(token: int) -> bytes:
    """Return the bytes of one token; a special token gives its literal (``<|im_end|>``), an unknown id nothing."""
    return _bytes[token]


def decode_bytes(tokens: Iterable[int], *, skip_special: bool = False) -> bytes:
    """Return the bytes `tokens` stand for, special tokens left out when `skip_special`."""
    if skip_special:
        return b"".join([_bytes[token] for token in tokens if token >= _BYTES])
    return b"".join([_bytes[token] for token in tokens])


def decode(tokens: Iterable[int], *, skip_special: bool = False) -> str:
    """Return the text of `tokens`; bytes that are no character become U+FFFD."""
    return decode_bytes(tokens, skip_special=skip_special).decode("utf-8", "replace")


def is_special(token: int) -> bool:
    """Say whether `token` is a control token that is not part of an answer's text."""
    return token < _BYTES


# --- the model ---------------------------------------------------------------------------------------------------

_MASK = (1 << 64) - 1
_CONSONANTS = b"bcdfghjklmnprstvwyz"
_VOWELS = b"aeiou"
_SYLLABLES = [(c - 0x61) * 26 + v - 0x61 for c in _CONSONANTS for v in _VOWELS]
_SINGLES = [letter - 0x61 for letter in b"aio"]
_SPACED = _RUNS + _RUNS_PER_KIND
_PERIOD, _COMMA, _NEWLINE = (_BYTES + char for char in b".,\n")
_PAUSES = frozenset((_PERIOD, _COMMA, _NEWLINE))
# First bytes of characters of two, three and four bytes: accented Latin, Chinese, emoji.
_LEADS = (0xC3, 0xE5, 0xE6, 0xE7, 0xF0, 0xF0)
# After these lead bytes UTF-8 allows only part of 0x80..0xBF as second byte (Unicode 15, table 3-7): start, count.
_SECOND = {0xE0: (0xA0, 32), 0xED: (0x80, 32), 0xF4: (0x80, 16), 0xC3: (0xA0, 32), 0xF0: (0x9F, 1)}


def _mix(state: int) -> int:
    """Spread a 32-bit state over 64 bits (the finalizer of SplitMix64)."""
    value = (state * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def unfinished_character(data: bytes) -> bytes:
    """Return the bytes at the end of `data` that begin a UTF-8 character but do not complete it."""
    for back in range(1, min(3, len(data)) + 1):
        lead = data[-back]
        if lead < 0x80:
            return b""
        if lead >= 0xC0:
            needed = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return data[-back:] if back < needed and lead < 0xF5 else b""
    return b""


def _next_byte(begun: bytes, number: int) -> int:
    """Pick a byte that brings the unfinished character `begun` nearer to its end."""
    if begun == b"\xf0\x9f":
        return 0x98  # together: U+1F600 to U+1F63F, faces
    if len(begun) == 1 and begun[0] in _SECOND:
        start, count = _SECOND[begun[0]]
        return start + number % count
    return 0x80 + number % 64


def _run(number: int, spaced: bool) -> int:
    """Pick a run of one to four letters, mostly four."""
    kind, number = number & 15, number >> 4
    base = _SPACED if spaced else _RUNS
    first, rest = _SYLLABLES[number % 95], number // 95
    if kind < 9:
        return base + _RUN_OFFSET[4] + first * 676 + _SYLLABLES[rest % 95]
    if kind < 12:
        return base + _RUN_OFFSET[3] + first * 26 + _CONSONANTS[rest % 19] - 0x61
    if kind < 15:
        return base + _RUN_OFFSET[2] + first
    letter = _SINGLES[number % 3]
    # A single letter without a space in front is a byte token: that is what the tokenizer would make of it.
    return base + _RUN_OFFSET[1] + letter if spaced else _BYTES + 0x61 + letter


def _is_full_run(token: int) -> bool:
    """Say whether the letters of `token` fill a run, so that letters may follow without merging into it."""
    return token >= _RUNS and (token - _RUNS) % _RUNS_PER_KIND >= _RUN_OFFSET[_RUN_MAX]


class Continuation:
    """Produces, one by one, the tokens that follow a sequence of tokens.

    Args:
        tokens: what is there already: the prompt, and what was generated so far.
        salt: makes another, equally deterministic model.
        choice: index of the answer when several are asked for; 0 is the one everybody gets.
    """

    __slots__ = ("_begun", "_last", "_state")

    def __init__(self, tokens: Sequence[int], salt: str = "", choice: int = 0) -> None:
        seed = crc32(salt.encode()) if salt else 0
        if choice:
            seed = crc32(b"choice %d" % choice, seed)
        self._state = crc32(array("I", tokens).tobytes(), seed)
        self._last = tokens[-1] if tokens else END_OF_TEXT
        tail = b"".join([_bytes[token] if token >= _BYTES else b" " for token in tokens[-3:]])
        self._begun = unfinished_character(tail)

    def next(self, *, eos: bool = True) -> int:
        """Return the next token; `eos` says whether the answer may end here. The choice depends on nothing else."""
        token = self._choose(_mix(self._state), eos)
        self._state = crc32(array("I", (token,)).tobytes(), self._state)
        self._last = token
        if _BYTES + 0x80 <= token < _RUNS:
            self._begun = unfinished_character(self._begun + bytes((token - _BYTES,)))
        else:
            self._begun = b""
        return token

    def _choose(self, number: int, eos: bool) -> int:
        if self._begun:
            return _BYTES + _next_byte(self._begun, number)
        last = self._last
        kind, number = number & 255, number >> 8
        if last == _PERIOD and kind < 26 and eos:
            return EOS  # one sentence in ten is the last one: about 190 tokens on average
        if kind < 110 and _is_full_run(last):
            return _run(number, spaced=False)
        if kind >= 216 and last not in _PAUSES:
            if kind < 234:
                return _PERIOD
            return _COMMA if kind < 246 else _NEWLINE
        if 200 <= kind < 216 and last >= _RUNS:
            return _BYTES + _LEADS[number % len(_LEADS)]
        return _run(number, spaced=True)
