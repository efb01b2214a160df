"""A first look at a batch's input: how many requests there are, and which have a `custom_id` that came before.

Nothing of the lines is kept but a bit for each (`shoal.batch.digests`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from shoal.batch.digests import Bits, Digests
from shoal.batch.lines import custom_id_of, numbered

_LOOK_UP = 1000  # lines between two looks at whether to go on


class StoppedError(Exception):
    """It was told to stop."""


class Survey(msgspec.Struct, frozen=True):
    """What there is to do.

    Attributes:
        total: lines that are not empty.
        repeated: numbers of the lines whose `custom_id` an earlier line has.
    """

    total: int
    repeated: Bits


def survey(path: Path, longest: int, stopped: Callable[[], bool] = lambda: False) -> Survey:
    """Look through the input of a batch.

    Args:
        path: the file.
        longest: bytes a line may have.
        stopped: asked now and then.

    Raises:
        StoppedError: `stopped` said so.
    """
    total = 0
    with Digests(path.parent) as ids, path.open("rb") as file:
        for number, data in numbered(file, longest):
            total += 1
            if total % _LOOK_UP == 0 and stopped():
                raise StoppedError
            custom_id = custom_id_of(data)
            if custom_id is not None:
                ids.add(custom_id, number)
        return Survey(total, ids.repeated())
