"""Files and batches: what may be uploaded, and how much of the cluster batches may use."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from shoal.config.base import Section, bytes_between

_KIB, _GIB = 1024, 1024**3
_MOST = 10_000


def _number_or_auto(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST
    if value != "auto" and not is_number:
        raise ValueError(f"it must be a whole number from 1 to {_MOST}, or auto")
    return value


class Batch(Section):
    """Offline work: files and batches (`/v1/files`, `/v1/batches`)."""

    max_file: Annotated[int, *bytes_between(_KIB, 512 * _GIB)] = Field(
        default=16 * _GIB, description="Largest file that may be uploaded, in bytes or as 16GiB."
    )
    max_in_flight: Annotated[
        Annotated[int, Field(ge=1, le=_MOST)] | Literal["auto"], BeforeValidator(_number_or_auto)
    ] = Field(
        default="auto",
        description="Requests of batches that a node has open at the same time. auto: enough for all engines that are "
        "ready; admission.batch_share still bounds what each of them gets.",
    )
