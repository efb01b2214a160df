"""Who may use the gateway: where its API keys come from, and what a file of keys says of each."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from shoal.config.base import Entries, FilePath, Line, Section, distinct, single_line

MAX_ENTRIES = 4000
_HASH = re.compile(r"(sha256:)?[0-9a-fA-F]{64}")


def _no_spaces(value: str) -> str:
    if any(c.isspace() for c in single_line(value)) or not value.isascii():
        raise ValueError("it must be plain ASCII characters without spaces")
    return value


ApiKey = Annotated[str, Field(min_length=16, max_length=512), AfterValidator(_no_spaces)]


class Keys(Section):
    """API keys that the gateway asks for. With none of these settings it asks for none."""

    file: FilePath | None = Field(
        default=None,
        description="File of keys and their limits, made with `shoal keys new`. The path is relative to the "
        "configuration file. A change of the file is in force within a second.",
    )
    api_keys: Entries[ApiKey] = Field(
        default=(),
        repr=False,
        description="Keys without limits, at least 16 characters each. By default those of the environment variable "
        "SHOAL_API_KEYS, with commas between them.",
    )
    admin_keys: Entries[ApiKey] = Field(
        default=(),
        repr=False,
        description="The same for keys that open /shoal/* too. By default those of SHOAL_ADMIN_KEYS.",
    )
    metrics: Literal["open", "admin"] = Field(
        default="open",
        description="open: /metrics, which names the keys (not the keys themselves), needs no key. admin: an admin "
        "key, or the one that `shoal monitor init` hands to Prometheus.",
    )

    @property
    def wanted(self) -> bool:
        """Whether the gateway asks for keys."""
        return self.file is not None or bool(self.api_keys or self.admin_keys)


def _hash(value: str) -> str:
    if not _HASH.fullmatch(value):
        raise ValueError(
            "it must be the SHA-256 of a key, 64 hexadecimal digits; `shoal keys new` writes it, "
            "`printf %s KEY | sha256sum` shows it"
        )
    return value.removeprefix("sha256:").lower()


def _time(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("it must be a date, 2027-01-31, or a time, 2027-01-31T12:00:00Z")
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("it must be a date, 2027-01-31, or a time, 2027-01-31T12:00:00Z") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


Limit = Annotated[int, Field(ge=1, le=1_000_000_000)]


class KeyEntry(Section):
    """One key in a file of keys."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}$")] = Field(
        description="Whose key it is, unique in the file: letters, digits, _ . @ and -, at most 63."
    )
    hash: Annotated[Line, AfterValidator(_hash)] = Field(description="SHA-256 of the key, in hexadecimal.")
    role: Literal["user", "admin"] = Field(
        default="user", description="user: the APIs under /v1 and the other endpoints. admin: /shoal/* too."
    )
    models: Annotated[Entries[Line], AfterValidator(distinct)] | None = Field(
        default=None, description="Models it may use, as clients name them. By default all."
    )
    requests_per_minute: Limit | None = Field(
        default=None, description="Most requests a minute, on all nodes together. By default any number."
    )
    tokens_per_minute: Limit | None = Field(
        default=None, description="Most tokens a minute, prompts and answers together. By default any number."
    )
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Most requests open at the same time. By default any number."
    )
    priority: int = Field(
        default=0,
        ge=-1_000_000,
        le=1_000_000,
        description="Of its requests, as in vLLM: lower is served earlier.",
    )
    expires: Annotated[datetime, BeforeValidator(_time)] | None = Field(
        default=None, description="Date or time (UTC unless it says otherwise) from which on it is not valid."
    )


class KeysFile(Section):
    """A file of keys."""

    keys: Entries[KeyEntry] = Field(default=(), max_length=MAX_ENTRIES, description="The keys.")
