"""What the platform asks of a place that keeps things. One contract suite runs on every adapter."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from libs.common.errors import InvalidInputError, NotFoundError

# Objects travel in parts of this size; nothing larger is held in memory at once.
PART_BYTES = 1024 * 1024
# A journal entry's state and outbox together; larger things are objects that the entry names.
ENTRY_BYTES_MAX = 1024 * 1024
# An event's JSON. With its headers it stays below what a Kafka broker takes, which is 1 MiB.
EVENT_BYTES_MAX = 900 * 1024
KEY_BYTES_MAX = 900
# How long it is known what was published: far longer than a broker takes to write it to its disk.
PUBLISHED_KEPT_S = 24 * 3_600
# The end of the name of what is still being written beside an object.
PARTIAL = ".partial"

_SEGMENT = re.compile(r"[A-Za-z0-9._@:=+-]{1,200}")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event in an outbox: what the relay will publish, byte for byte, each time it must."""

    event_id: str
    topic: str
    key: str
    payload: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One step in the life of an aggregate: state, inbox (`cause`) and outbox in one insert.

    `aggregate` is "<tenant>/<kind>/<name>"; `version` counts 1, 2, 3... without a gap.
    """

    aggregate: str
    version: int
    cause: str
    type: str
    state: Mapping[str, Any]
    at: datetime
    by: str
    outbox: tuple[Outgoing, ...] = field(default=())

    @property
    def id(self) -> str:
        return f"{self.aggregate}/{self.version}"

    @property
    def tenant(self) -> str:
        return self.aggregate.split("/", 1)[0]

    @property
    def kind(self) -> str:
        return self.aggregate.split("/", 2)[1]

    @property
    def name(self) -> str:
        return self.aggregate.split("/", 2)[2]


class Published(NamedTuple):
    """An entry whose outbox was published; `place` is where its listing goes on after it."""

    place: str
    entry: Entry


class VersionTakenError(Exception):
    """Somebody else inserted this version first: read again, decide again."""


class CauseSeenError(Exception):
    """This cause has had its effect on the aggregate already; `entry` is what it made."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.id)
        self.entry = entry


class JournalStore(Protocol):
    """Append-only entries. Only inserts, unique keys and point or range reads are asked for.

    Opened by whatever is asked of it first. Every call raises DependencyError, whose `which` is
    "journal", when the store is out of reach; an insert may then have happened or not.
    """

    async def insert(self, entry: Entry) -> None:
        """Durable when it returns. Raises VersionTakenError or CauseSeenError, and adds nothing."""
        ...

    async def latest(self, aggregate: str) -> Entry | None: ...

    async def by_cause(self, aggregate: str, cause: str) -> Entry | None: ...

    async def history(
        self, aggregate: str, after_version: int = 0, limit: int = 500
    ) -> list[Entry]:
        """Entries with a higher version, oldest first."""
        ...

    async def heads(
        self, kind: str, tenant: str | None = None, after: str = "", limit: int = 500
    ) -> list[Entry]:
        """The latest entry of each aggregate of a kind, sorted, from the one after `after`."""
        ...

    async def unrelayed(self, limit: int = 500) -> list[Entry]:
        """Entries whose outbox is not known to be published, about oldest first.

        Of one aggregate: without a gap from its oldest one on, in the order of versions.
        """
        ...

    async def mark_relayed(self, entries: Sequence[Entry]) -> None:
        """They need not be published again, unless the broker loses them: see `published`.

        Marking twice is no error.
        """
        ...

    async def published(self, after: str = "", limit: int = 500) -> list[Published]:
        """What was marked within PUBLISHED_KEPT_S, about oldest first; an entry may come twice."""
        ...

    async def ping(self) -> None:
        """Raises DependencyError when the store cannot be reached."""
        ...

    async def close(self) -> None: ...


class ObjectStore(Protocol):
    """Bytes by key. A key begins with its tenant: "<tenant>/<kind>/<sha256 or name>".

    Every call raises InvalidInputError for what is no key, and DependencyError, whose `which` is
    "objects", when the store is out of reach.
    """

    async def put(self, key: str, content: bytes) -> None:
        """Whole or not at all, and durable. The same key again replaces the object."""
        ...

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> None:
        """As `put`, without holding the object in memory. What `parts` raises is raised."""
        ...

    async def get(self, key: str) -> bytes:
        """Raises NotFoundError. For what fits in memory; `read` gives the rest in parts."""
        ...

    def read(self, key: str) -> AsyncIterator[bytes]:
        """In parts of at most PART_BYTES. Raises NotFoundError at the first one."""
        ...

    async def exists(self, key: str) -> bool: ...

    def keys(self, prefix: str) -> AsyncIterator[str]:
        """Those that begin with `prefix` (any text, not only whole segments), sorted."""
        ...

    async def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


def missing(key: str) -> NotFoundError:
    """Its key says how we keep it, which is nobody's business: whoever asks knows what it is."""
    return NotFoundError(
        "An object is missing in the object store.",
        which="objects",
        next_step="Restore the object store from its backup.",
        inside=key,
    )


def checked_key(key: str) -> str:
    """The key itself. Raises InvalidInputError for one that some store would take for another."""
    segments = key.split("/")
    if (
        len(key.encode(errors="replace")) > KEY_BYTES_MAX
        or any(not _SEGMENT.fullmatch(segment) for segment in segments)
        or any(segment in {".", ".."} for segment in segments)
        or key.endswith(PARTIAL)
    ):
        raise InvalidInputError(
            "What was asked for cannot be the name of an object.",
            which="objects",
            inside=key[:KEY_BYTES_MAX],
            next_step=f"Use names of letters, digits and ._@:=+- with / between them, "
            f"{KEY_BYTES_MAX} bytes at most.",
        )
    return key
