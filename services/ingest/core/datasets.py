"""Seals what a source has taken in as immutable dataset versions, and reads them.

A version is an entry of "<tenant>/dataset/<name>" with the same number. Its manifest says only
what the rows are, so that the same events have the same digest however they came; which chunks
it covers, and what was dropped on the way, stands in the entry.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from libs.common import flow, telemetry
from libs.common.clock import Clock
from libs.common.errors import NotFoundError, PreconditionError
from libs.common.events import DatasetVersioned
from libs.common.journal import Change, Journal, aggregate
from libs.common.stores.ports import Entry, ObjectStore
from services.ingest.core.assembly import (
    Assembled,
    StoredFile,
    assemble,
    canonical,
)
from services.ingest.core.chunk import digest
from services.ingest.core.objects import fetch_file, store_file, verified
from services.ingest.core.sealed import Manifest, Sealed
from services.ingest.core.sources import Sources, Terms
from services.ingest.core.streams import Position, Streams, committed

KIND = "dataset"
# Fetching chunks is mostly waiting for the store.
FETCHES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    tenant: str
    number: int
    sealed: Sealed
    at: datetime
    by: str
    cause: str


@dataclass(frozen=True, slots=True)
class Dataset:
    name: str
    latest_version: int
    row_count: int
    records_unsealed: int
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class _Fresh:
    """What is new since the latest version: the streams as they stand, and their new entries."""

    positions: Sequence[Position]
    entries: Sequence[Entry]

    @property
    def rows(self) -> int:
        return sum(committed(entry).accepted for entry in self.entries)

    @property
    def traceparent(self) -> str:
        """Of the chunk that was committed first: its trace began with its first record."""
        traced = [entry for entry in self.entries if committed(entry).traceparent]
        return committed(min(traced, key=lambda each: each.at)).traceparent if traced else ""


@dataclass(frozen=True, slots=True)
class Datasets:
    journal: Journal
    objects: ObjectStore
    clock: Clock
    sources: Sources
    streams: Streams

    async def seal(
        self, tenant: str, name: str, cause: str, by: str
    ) -> tuple[DatasetVersion, bool]:
        """The version that holds everything accepted so far, and whether this call made it.

        Raises NotFoundError for an unknown source, PreconditionError while there is no record.
        """
        terms = await self.sources.terms(tenant, name)
        dataset = aggregate(tenant, KIND, name)
        latest = await self.journal.latest(dataset)
        fresh = await self._fresh(tenant, name, latest)
        if latest is None and not fresh.rows:
            raise PreconditionError(
                f"The source {name} has no accepted record yet.",
                which=name,
                next_step=f"Publish to {flow.upstream_topic(tenant, name)}, or upload a file.",
            )

        async def decide(latest: Entry | None) -> Change | None:
            fresh = await self._fresh(tenant, name, latest)
            return await self._change(tenant, terms, latest, fresh) if fresh.rows else None

        asked_in = telemetry.traceparent()
        with telemetry.span(
            "seal dataset",
            # The trace of the first upstream record goes on: event, dataset, training.
            under=fresh.traceparent or None,
            links=(asked_in,),
            basalt_tenant=tenant,
            basalt_dataset=name,
        ):
            cause = cause or self.clock.new_id()
            entry = await self.journal.decide(dataset, cause, by, decide)
        return version_of(entry), entry.cause == cause

    async def rows_unsealed(self, tenant: str, name: str) -> int:
        positions = await self.streams.positions(tenant, name)
        latest = await self.journal.latest(aggregate(tenant, KIND, name))
        accepted = sum(each.state.accepted_total for each in positions)
        return accepted - (version_of(latest).sealed.accepted_total if latest else 0)

    async def latest_number(self, tenant: str, name: str) -> int:
        """0 when there is no version yet."""
        latest = await self.journal.latest(aggregate(tenant, KIND, name))
        return latest.version if latest else 0

    async def version(self, tenant: str, name: str, number: int = 0) -> DatasetVersion:
        """0 means the latest. Raises NotFoundError."""
        await self.sources.get(tenant, name)
        dataset = aggregate(tenant, KIND, name)
        if number == 0:
            entry = await self.journal.latest(dataset)
        else:
            page = await self.journal.store.history(dataset, max(number - 1, 0), limit=1)
            entry = page[0] if page and page[0].version == number else None
        if entry is None:
            raise NotFoundError(
                f"The dataset {name} has no version{f' {number}' if number else ' yet'}.",
                which=f"{name}/{number}",
                next_step="`basalt data seal` makes one; `basalt data versions` shows them.",
            )
        return version_of(entry)

    async def versions(
        self, tenant: str, name: str, after: int, limit: int
    ) -> list[DatasetVersion]:
        await self.sources.get(tenant, name)
        page = await self.journal.store.history(aggregate(tenant, KIND, name), after, limit)
        return [version_of(entry) for entry in page]

    async def page(self, tenant: str, after: str, limit: int) -> list[Dataset]:
        """Every source has a dataset, if only one without a version."""
        datasets: list[Dataset] = []
        for source in await self.sources.page(tenant, after, limit):
            latest = await self.journal.latest(aggregate(tenant, KIND, source.name))
            datasets.append(
                Dataset(
                    name=source.name,
                    latest_version=latest.version if latest else 0,
                    row_count=version_of(latest).sealed.manifest.row_count if latest else 0,
                    records_unsealed=await self.rows_unsealed(tenant, source.name),
                    changed_at=latest.at if latest else source.at,
                )
            )
        return datasets

    async def read(self, version: DatasetVersion) -> AsyncIterator[bytes]:
        """The rows as Parquet in parts; IntegrityError when they are not those that were sealed."""
        rows = version.sealed.manifest.files[0]
        async for part in verified(self.objects, version.tenant, KIND, rows.sha256):
            yield part

    # Sealing.

    async def _fresh(self, tenant: str, name: str, latest: Entry | None) -> _Fresh:
        covers = version_of(latest).sealed.covers if latest else {}
        positions = await self.streams.positions(tenant, name)
        entries: list[Entry] = []
        for position in positions:
            entries += await self.streams.between(position, covers.get(position.partition, 0))
        return _Fresh(positions, entries)

    async def _change(
        self, tenant: str, terms: Terms, latest: Entry | None, fresh: _Fresh
    ) -> Change:
        before = version_of(latest).sealed if latest else None
        name, number = terms.contract.name, (latest.version if latest else 0) + 1
        with tempfile.TemporaryDirectory(prefix="seal-") as folder:
            parts = await self._fetch(tenant, before, fresh, Path(folder))
            made = await asyncio.to_thread(assemble, terms.contract, parts, Path(folder))
            rows = await store_file(self.objects, tenant, KIND, made.rows)
            events = await store_file(self.objects, tenant, "events", made.events)
        manifest = Manifest(
            dataset=name,
            version=number,
            row_count=made.row_count,
            key=terms.contract.keys,
            label=terms.contract.label_column,
            columns=made.columns,
            files=(rows,),
            parents=(before.manifest_sha256,) if before else (),
            source_revision=terms.revision,
            contract_sha256=digest(canonical(terms.contract.model_dump(mode="json"))),
        )
        content = canonical(manifest.model_dump(mode="json"))
        sha256 = digest(content)
        await self.objects.put(f"{tenant}/manifest/{sha256}", content)
        sealed = _sealed(manifest, sha256, fresh.positions, events, made)
        event = DatasetVersioned(
            id=f"{aggregate(tenant, KIND, name)}/{number}",
            tenant=tenant,
            at=self.clock.now(),
            dataset=name,
            version=number,
            manifest_sha256=sha256,
            row_count=made.row_count,
        )
        return Change("DatasetVersioned", sealed.model_dump(mode="json"), [event])

    async def _fetch(
        self, tenant: str, before: Sealed | None, fresh: _Fresh, folder: Path
    ) -> list[Path]:
        """The events of the version before, then the new chunks in the order of the streams."""
        wanted = [("events", before.events.sha256)] if before else []
        for entry in fresh.entries:
            wanted += [("chunk", chunk.sha256) for chunk in committed(entry).chunks]
        paths = [folder / f"{number:06d}.parquet" for number in range(len(wanted))]
        gate = asyncio.Semaphore(FETCHES_AT_ONCE)

        async def fetch(kind: str, sha256: str, path: Path) -> None:
            async with gate:
                await fetch_file(self.objects, tenant, kind, sha256, path)

        try:
            async with asyncio.TaskGroup() as group:
                for (kind, sha256), path in zip(wanted, paths, strict=True):
                    group.create_task(fetch(kind, sha256, path))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return paths


def _sealed(
    manifest: Manifest,
    sha256: str,
    positions: Sequence[Position],
    events: StoredFile,
    made: Assembled,
) -> Sealed:
    accepted = sum(each.state.accepted_total for each in positions)
    held = sum(each.state.held_total for each in positions)
    left = sum(each.left_total for each in positions)
    return Sealed(
        manifest=manifest,
        manifest_sha256=sha256,
        covers={each.partition: each.version for each in positions},
        events=events,
        accepted_total=accepted,
        duplicates_dropped=accepted - made.row_count,
        quarantined=held - left,
        trace_id=telemetry.trace_id(),
    )


def version_of(entry: Entry) -> DatasetVersion:
    sealed = Sealed.model_validate(entry.state)
    return DatasetVersion(entry.tenant, entry.version, sealed, entry.at, entry.by, entry.cause)
