"""What the core needs from outside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    dataset: str
    version: int
    manifest_sha256: str
    # Name → type as in the data contract. Empty where only an event told of the version.
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    # False when sealing found no new row and answered the version that was there.
    created: bool = True


@dataclass(frozen=True, slots=True)
class Columns:
    """What a source's data contract says of its columns. `types` holds each one's, by name."""

    types: Mapping[str, str] = field(default_factory=dict[str, str])
    key: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class Datasets(Protocol):
    """Datasets as `ingest` keeps them. DependencyError: it cannot be reached."""

    async def version(self, dataset: str, version: int) -> DatasetVersion:
        """Version 0 is the latest. Raises NotFoundError."""
        ...

    async def seal(self, dataset: str, idempotency_key: str) -> DatasetVersion:
        """Makes what was accepted since into the next version."""
        ...

    async def columns(self, dataset: str) -> Columns:
        """Those of the next version. Of a dataset that no source feeds: none."""
        ...

    def read(self, version: DatasetVersion) -> AsyncIterator[bytes]:
        """The rows as one Parquet file, in parts.

        Raises IntegrityError, at the end, when they are not those that the manifest names.
        """
        ...


class Place(Protocol):
    """A folder of one attempt at a job, for the training process and for nobody else."""

    @property
    def path(self) -> Path: ...

    async def write(self, name: str, parts: AsyncIterator[bytes]) -> str:
        """Whole or not at all; the SHA-256 of what was written."""
        ...

    def read(self, name: str) -> AsyncIterator[bytes]:
        """Raises NotFoundError."""
        ...

    async def sha256(self, name: str) -> str:
        """Raises NotFoundError."""
        ...

    async def snapshot(self, name: str) -> str:
        """The name of what the file holds now, whatever is put in its place later.

        Raises NotFoundError.
        """
        ...

    async def remove(self) -> None: ...


class Workplace(Protocol):
    async def prepare(self, tenant: str, job: str, attempt: int) -> Place:
        """An empty place; those of earlier attempts at this job are removed."""
        ...


@dataclass(frozen=True, slots=True)
class Progressed:
    step: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Measured:
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Logged:
    line: str


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A file in the place from which training can go on."""

    file: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The candidate's files are in the place; manifest.json names them."""

    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """The process found that this training cannot succeed; where it `passes`, not now."""

    what: str
    which: str = ""
    next_step: str = ""
    passes: bool = False


@dataclass(frozen=True, slots=True)
class Exited:
    """Always the last message. `code` is negative for a signal; `over` names the limit passed."""

    code: int
    over: Literal["", "time", "memory"] = ""
    resident_bytes_max: int = 0


Message = Progressed | Measured | Logged | Checkpointed | Finished | Refused | Exited


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    time_s: float
    memory_bytes: int
    threads: int


class Training(Protocol):
    """Runs a job in a process of its own, which dies when this one does."""

    def run(
        self, place: Place, limits: ProcessLimits, traceparent: str
    ) -> AsyncGenerator[Message, None]:
        """Ends with Exited. Closing the iterator kills the process."""
        ...
