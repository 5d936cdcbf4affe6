"""What the core needs from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


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


class UpstreamTopics(Protocol):
    """The topics that upstream systems publish to."""

    async def ensure(self, topics: Sequence[str]) -> None:
        """Creates those that are missing. Raises DependencyError when Kafka cannot be reached."""
        ...
