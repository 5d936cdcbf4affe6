"""What the core needs from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from libs.common import flow


class UpstreamRecord(Protocol):
    """A message as Kafka gave it. The names are those of aiokafka's record: nothing is copied."""

    @property
    def offset(self) -> int: ...

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970."""
        ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a file, and its rows as JSON objects, each in bytes."""

    columns: list[str]
    rows: Iterator[bytes]


class ParquetReader(Protocol):
    def open(self, path: Path) -> AbstractContextManager[Table]:
        """Raises InvalidInputError, also while rows are read, for what cannot or must not be."""
        ...


@dataclass(frozen=True, slots=True)
class Stream:
    """A source's topic. `durable`: its records are on disk before they are acknowledged."""

    tenant: str
    source: str
    durable: bool

    @property
    def topic(self) -> str:
        return flow.upstream_topic(self.tenant, self.source)


class UpstreamTopics(Protocol):
    """The topics that upstream systems publish to. DependencyError: they cannot be reached."""

    async def put(self, stream: Stream) -> None:
        """Makes it, or changes it."""
        ...

    async def ensure(self, streams: Sequence[Stream]) -> None:
        """Makes those that are missing."""
        ...


@dataclass(frozen=True, slots=True)
class SourceKey:
    """A user of Kafka that may publish to one source's topic; `at` and `by` of its last change."""

    id: str
    source: str
    topic: str
    user: str
    revoked: bool
    at: datetime
    by: str
    cause: str


class SourceKeys(Protocol):
    """Who may publish to a source. All act in the tenant that we act for.

    Raise NotFoundError for an unknown key, LimitError, and DependencyError when it is not known
    whether Kafka was told.
    """

    async def create(self, source: str, by: str) -> tuple[SourceKey, str]:
        """The key and its password."""
        ...

    async def rotate(self, source: str, key_id: str, by: str) -> tuple[SourceKey, str]: ...

    async def revoke(self, source: str, key_id: str, by: str) -> SourceKey: ...

    async def page(self, source: str, size: int, token: str) -> tuple[list[SourceKey], str]: ...
