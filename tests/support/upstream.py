"""Upstream systems for tests: CloudEvents as Kafka carries them; ingest's core on real stores."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from libs.common.clock import SystemClock
from libs.common.journal import Journal
from libs.common.stores.directory import DirectoryObjects
from libs.common.stores.ports import JournalStore
from libs.common.stores.sqlite import SqliteJournal
from services.ingest.core.autosealing import Autosealing
from services.ingest.core.datasets import Datasets, DatasetVersion
from services.ingest.core.intake import Intake
from services.ingest.core.quarantine import Filter, Quarantine, Quarantined
from services.ingest.core.remedies import Remedies
from services.ingest.core.sources import Sources
from services.ingest.core.streams import Streams
from services.ingest.core.uploads import Uploads
from services.ingest.outbound.parquet_process import ParquetProcess
from services.ingest.ports import Stream, UpstreamTopics

TENANT, SOURCE = "acme", "scans"
TOPIC = "upstream.acme.scans"
NOON_MS = 1_767_268_800_000
CONTRACT = """\
name: scans
description: What a scanner measured.
key: [scan]
label: finding
columns:
  - {name: scan, type: string, role: key}
  - {name: width, type: float, unit: mm, minimum: 0, maximum: 100}
  - {name: slices, type: integer, minimum: 1}
  - {name: contrast, type: boolean, required: false}
  - {name: taken, type: timestamp, required: false, role: ignored}
  - {name: finding, type: string, allowed: [benign, malignant]}
"""


@dataclass(frozen=True)
class Record:
    """A message as Kafka gives it."""

    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int = NOON_MS


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A row that keeps to the contract."""
    return {
        "scan": f"scan-{number:06d}",
        "width": 0.5 + number % 90,
        "slices": 1 + number % 7,
        "contrast": number % 2 == 0,
        "taken": "2026-01-01T12:00:00Z",
        "finding": "benign" if number % 3 else "malignant",
        **changes,
    }


def headers(event_id: str, **changes: bytes | None) -> list[tuple[str, bytes | None]]:
    """CloudEvents in binary mode; a change to None leaves the header out."""
    all_of_them: Mapping[str, bytes | None] = {
        "ce_specversion": b"1.0",
        "ce_id": event_id.encode(),
        "ce_source": b"/scanners/1",
        "ce_type": b"scan.taken",
        "content-type": b"application/json",
        **changes,
    }
    return [(name, value) for name, value in all_of_them.items() if value is not None]


def record(number: int = 0, *, offset: int | None = None, **changes: Any) -> Record:
    body = json.dumps(row(number, **changes)).encode()
    return Record(number if offset is None else offset, body, headers(f"event-{number}"))


class NoTopics:
    """For what has no Kafka: the topics that were asked for."""

    def __init__(self) -> None:
        self.ensured: list[str] = []

    async def put(self, stream: Stream) -> None:
        await self.ensure([stream])

    async def ensure(self, streams: Sequence[Stream]) -> None:
        self.ensured += [stream.topic for stream in streams]


@dataclass
class Ingest:
    """The core of ingest on SQLite and a directory, laid out as a process of it does."""

    folder: Path
    journal: Journal
    sources: Sources
    streams: Streams
    intake: Intake
    datasets: Datasets
    uploads: Uploads
    quarantine: Quarantine
    remedies: Remedies
    autosealing: Autosealing

    async def close(self) -> None:
        await self.journal.store.close()

    async def put_source(self, contract: str = CONTRACT) -> None:
        await self.sources.put(TENANT, SOURCE, contract, "ada")

    async def take(self, records: Sequence[Record], partition: int = 0) -> None:
        position = await self.intake.position(TOPIC, partition)
        await self.intake.commit(position, records)

    async def seal(self, cause: str = "") -> DatasetVersion:
        version, _ = await self.datasets.seal(TENANT, SOURCE, cause, "ada")
        return version

    async def rows(self, version: DatasetVersion) -> pl.DataFrame:
        parts = [part async for part in self.datasets.read(version)]
        return pl.read_parquet(io.BytesIO(b"".join(parts)))

    async def held(self, source: str = SOURCE) -> list[Quarantined]:
        page, _ = await self.quarantine.page(TENANT, Filter(source), "", 500)
        return page


def ingest_core(
    folder: Path, topics: UpstreamTopics | None = None, store: JournalStore | None = None
) -> Ingest:
    journal = Journal(store or SqliteJournal(folder / "ingest.db"), SystemClock())
    objects, clock = DirectoryObjects(folder / "ingest"), SystemClock()
    streams = Streams(journal, objects)
    sources = Sources(journal, clock, streams, topics or NoTopics())
    datasets = Datasets(journal, objects, clock, sources, streams)
    autosealing = Autosealing(journal, sources, datasets)
    notice: Callable[[str, str], None] = autosealing.notice
    quarantine = Quarantine(journal, sources, streams)
    return Ingest(
        folder,
        journal,
        sources,
        streams,
        Intake(journal, streams, sources, notice, clock),
        datasets,
        Uploads(journal, objects, clock, sources, streams, notice, ParquetProcess()),
        quarantine,
        Remedies(journal, objects, clock, sources, streams, quarantine, notice),
        autosealing,
    )
