"""Text of a wanted number of tokens of the simulated engine: four letters and the space before them are one. Pure."""

from __future__ import annotations

import random

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwyz", "aeiou"
_SYLLABLES = [c + v for c in _CONSONANTS for v in _VOWELS]
_WORDS = [f" {a}{b}" for a in _SYLLABLES for b in _SYLLABLES]


def words(tokens: int, *seed: object) -> str:
    """Return a text of exactly `tokens` tokens; equal seeds give equal texts, others share no beginning."""
    return "".join(random.Random(repr(seed)).choices(_WORDS, k=tokens))
