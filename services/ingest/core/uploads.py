"""Uploads: records or a file in one go, wholly or not at all, and the same key only once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import InvalidInputError, LimitError
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry, ObjectStore
from services.ingest.core.chunk import EXAMPLES_MAX, Gathered, Gathering, Row, StoredChunk, digest
from services.ingest.core.files import FILE_BYTES_MAX, FileFormat, FileRow, json_row, read_rows
from services.ingest.core.intake import Notice
from services.ingest.core.limits import (
    CHUNK_BYTES_MAX,
    CHUNK_ROWS_MAX,
    RECORD_BYTES_MAX,
    ROWS_MAX,
    SLICE_BYTES_MAX,
)
from services.ingest.core.moments import microseconds
from services.ingest.core.objects import store_file
from services.ingest.core.sources import Sources, Terms
from services.ingest.core.streams import (
    UPLOAD,
    Lines,
    Streams,
    change,
    committed,
    position_of,
    stream,
)
from services.ingest.ports import ParquetReader

RECORDS_A_MESSAGE_MAX = 10_000
KEY_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True)
class Summary:
    """`reasons` of the held records, `examples` of what was wrong, `lines` of a file."""

    source: str
    accepted: int
    held: int
    repeated: bool
    reasons: Mapping[str, int]
    examples: tuple[str, ...]
    lines: Lines


@dataclass(slots=True)
class Spooled:
    """Chunks of an upload that wait in a folder until all of it is there."""

    folder: Path
    chunks: list[tuple[Path, int]] = field(default_factory=list)
    held: list[tuple[Path, int]] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    lines: int = 0
    skipped: int = 0
    accepted_lines: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    examples: tuple[str, ...] = ()

    def add(self, gathered: Gathered) -> None:
        self.accepted_lines += gathered.accepted_lines
        self.reasons.update(gathered.reasons)
        self.examples = (*self.examples, *gathered.examples)[:EXAMPLES_MAX]
        for content, rows, kept in (
            (gathered.accepted, gathered.accepted_rows, self.chunks),
            (gathered.held, gathered.held_rows, self.held),
        ):
            if rows:
                path = self.folder / digest(content)
                path.write_bytes(content)
                kept.append((path, rows))


@dataclass(frozen=True, slots=True)
class Uploads:
    journal: Journal
    objects: ObjectStore
    clock: Clock
    sources: Sources
    streams: Streams
    notice: Notice
    parquet: ParquetReader

    async def take_records(
        self, tenant: str, source: str, key: str, by: str, parts: AsyncIterator[Sequence[bytes]]
    ) -> Summary:
        """JSON objects, in parts of at most 10,000."""
        key = self._key(key)
        terms = await self.sources.terms(tenant, source)
        cause, earlier = await self._earlier(tenant, source, key, terms)
        if earlier is not None:
            return earlier
        now = self.clock.now()
        with _folder() as folder:
            spooled = Spooled(folder)
            waiting: list[FileRow] = []
            async for records in parts:
                _check_part(records)
                waiting += map(json_row, records)
                if _weight(waiting) >= CHUNK_BYTES_MAX or len(waiting) >= CHUNK_ROWS_MAX:
                    await asyncio.to_thread(_gather, terms, key, now, spooled, waiting)
                    waiting = []
            await asyncio.to_thread(_gather, terms, key, now, spooled, waiting)
            return await self._commit(tenant, source, cause, by, terms, spooled)

    async def take_file(
        self,
        tenant: str,
        source: str,
        key: str,
        by: str,
        format_: FileFormat,
        parts: AsyncIterator[bytes],
    ) -> Summary:
        """A file of at most 1 GiB. What is wrong with the file itself refuses all of it.

        Raises InvalidInputError for one without rows too.
        """
        key = self._key(key)
        terms = await self.sources.terms(tenant, source)
        cause, earlier = await self._earlier(tenant, source, key, terms)
        if earlier is not None:
            return earlier
        now = self.clock.now()
        with _folder() as folder:
            path = folder / "file"
            await _receive(path, parts)
            spooled = Spooled(folder)
            with contextlib.closing(read_rows(path, format_, terms.contract, self.parquet)) as rows:
                while await asyncio.to_thread(gather_some, terms, key, now, spooled, rows):
                    pass
            if not spooled.rows:
                raise InvalidInputError(
                    f"The file has no rows{' below its header' if format_ == 'csv' else ''}.",
                    which="file",
                    next_step="Check that it was written to its end; nothing of it was taken.",
                )
            return await self._commit(tenant, source, cause, by, terms, spooled)

    def _key(self, key: str) -> str:
        if len(key) > KEY_CHARACTERS_MAX or not key.isprintable():
            raise InvalidInputError(
                f"An idempotency key has at most {KEY_CHARACTERS_MAX} printable characters.",
                which="idempotency_key",
                next_step="A UUID will do.",
            )
        return key or self.clock.new_id()

    async def _earlier(
        self, tenant: str, source: str, key: str, terms: Terms
    ) -> tuple[str, Summary | None]:
        """The cause to take an upload under, or what became of it when it was taken before.

        What was held under an earlier contract may be right under this one: it is judged again. Its
        rows keep their identities, so that those accepted before do not count twice.
        """
        uploads = stream(tenant, source, UPLOAD)
        first = await self.journal.store.by_cause(uploads, key)
        if first is None:
            return key, None
        judged = committed(first)
        if not judged.held_rows or judged.contract_revision == terms.revision:
            return key, _summary(first, repeated=True)
        again = f"{key}@{terms.revision}"
        entry = await self.journal.store.by_cause(uploads, again)
        return again, None if entry is None else _summary(entry, repeated=True)

    async def _commit(
        self, tenant: str, source: str, cause: str, by: str, terms: Terms, spooled: Spooled
    ) -> Summary:
        chunks = await self._store(tenant, "chunk", spooled.chunks)
        held = await self._store(tenant, "held", spooled.held)
        made_here = False

        async def decide(latest: Entry | None) -> Change | None:
            nonlocal made_here
            position = position_of(latest, tenant, source, UPLOAD)
            state = position.after(
                next_offset=0,
                contract_revision=terms.revision,
                chunks=chunks,
                held=held,
                traceparent=telemetry.traceparent(),
                reasons=spooled.reasons,
                examples=spooled.examples,
                lines=Lines(
                    accepted=spooled.accepted_lines,
                    held=spooled.lines - spooled.accepted_lines,
                    skipped=spooled.skipped,
                ),
            )
            made_here = True
            return change("UploadCommitted", state)

        entry = await self.journal.decide(stream(tenant, source, UPLOAD), cause, by, decide)
        self.notice(tenant, source)
        return _summary(entry, repeated=not made_here)

    async def _store(
        self, tenant: str, kind: str, files: Sequence[tuple[Path, int]]
    ) -> list[StoredChunk]:
        chunks: list[StoredChunk] = []
        for path, rows in files:
            stored = await store_file(self.objects, tenant, kind, path)
            chunks.append(
                StoredChunk(sha256=stored.sha256, rows=rows, size_bytes=stored.size_bytes)
            )
        return chunks


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Where an upload waits until it is complete."""
    # A caller that goes away leaves a thread behind that may still write: nothing to fail for.
    with tempfile.TemporaryDirectory(prefix="upload-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def _receive(path: Path, parts: AsyncIterator[bytes]) -> None:
    received = 0
    with path.open("wb") as file:
        async for part in parts:
            received += len(part)
            if received > FILE_BYTES_MAX:
                raise LimitError(
                    f"The file is over {FILE_BYTES_MAX} bytes.",
                    which="file",
                    next_step="Send it as several files; nothing of it was taken.",
                )
            await asyncio.to_thread(file.write, part)


def _check_part(records: Sequence[bytes]) -> None:
    if len(records) > RECORDS_A_MESSAGE_MAX:
        raise InvalidInputError(
            f"A message has {len(records)} records.",
            which="records",
            next_step=f"Send at most {RECORDS_A_MESSAGE_MAX} in each.",
        )
    longest = max(map(len, records), default=0)
    if longest > RECORD_BYTES_MAX:
        raise InvalidInputError(
            f"A record has {longest} bytes.",
            which="records",
            next_step=f"A record has at most {RECORD_BYTES_MAX}; nothing was taken.",
        )


def gather_some(
    terms: Terms, key: str, now: datetime, spooled: Spooled, rows: Iterator[FileRow]
) -> bool:
    """The next chunk of a file; False when there was none left."""
    gathering = Gathering(terms.checker)
    count = weight = 0
    while count < CHUNK_ROWS_MAX and weight < CHUNK_BYTES_MAX:
        # So few at a time, since a row takes more memory than it does in the file.
        some = _some(rows, CHUNK_ROWS_MAX - count)
        if not some:
            break
        count, weight = count + len(some), weight + _weight(some)
        gathering.add_rows(_numbered(key, now, spooled, some))
    spooled.add(gathering.finish())
    return count > 0


def _some(rows: Iterator[FileRow], count_max: int) -> list[FileRow]:
    some: list[FileRow] = []
    weight = 0
    for row in itertools.islice(rows, count_max):
        some.append(row)
        weight += len(row.body)
        if weight >= SLICE_BYTES_MAX:
            break
    return some


def _gather(
    terms: Terms, key: str, now: datetime, spooled: Spooled, rows: Sequence[FileRow]
) -> None:
    gathering = Gathering(terms.checker)
    gathering.add_rows(_numbered(key, now, spooled, rows))
    spooled.add(gathering.finish())


def _numbered(key: str, now: datetime, spooled: Spooled, rows: Sequence[FileRow]) -> list[Row]:
    """The rows that come next in an upload, as those they are. Raises LimitError."""
    spooled.skipped += sum(row.lines for row in rows if row.is_none)
    rows = [row for row in rows if not row.is_none]
    spooled.lines += sum(row.lines for row in rows)
    spooled.bytes += _weight(rows)
    if spooled.rows + len(rows) > ROWS_MAX or spooled.bytes > FILE_BYTES_MAX:
        raise LimitError(
            f"The upload is over {ROWS_MAX} records or {FILE_BYTES_MAX} bytes.",
            which="upload",
            next_step="Send it as several uploads; nothing of it was taken.",
        )
    occurred_us = microseconds(now)
    first, spooled.rows = spooled.rows, spooled.rows + len(rows)
    return [
        Row(
            position=number,
            # Digits enough that the order of the names is the order of the rows.
            identity=f"/upload/{key} {number:010d}",
            occurred_us=occurred_us,
            value=row.value,
            body=row.body,
            origin=f"upload/{key}/{number}",
            lines=row.lines,
        )
        for number, row in enumerate(rows, first)
    ]


def _weight(rows: Sequence[FileRow]) -> int:
    return sum(len(row.body) for row in rows)


def _summary(entry: Entry, *, repeated: bool) -> Summary:
    state = committed(entry)
    _, _, source, _ = entry.aggregate.split("/")
    return Summary(
        source,
        state.accepted,
        state.held_rows,
        repeated,
        state.reasons,
        state.examples,
        state.lines,
    )
