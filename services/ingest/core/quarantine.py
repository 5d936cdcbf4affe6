"""Records that broke their contract: kept byte for byte, shown, mended, and sent in again.

A held record lies in an object of the chunk that it came with, so its identifier says where:
<source>.<stream>.<version of the entry>.<number in the entry>. What was done about it since is an
aggregate of its own, "<tenant>/quarantine/<id>"; one without any is held.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import InvalidInputError, NotFoundError, PreconditionError
from libs.common.journal import Change, Journal, aggregate
from libs.common.stores.ports import Entry, ObjectStore
from services.ingest.core import bodies, paging
from services.ingest.core.chunk import Held, Row, digest, gather_rows, read_held
from services.ingest.core.cloudevents import unparsable
from services.ingest.core.intake import Notice
from services.ingest.core.limits import RECORD_BYTES_MAX
from services.ingest.core.moments import microseconds
from services.ingest.core.sources import Sources, Terms
from services.ingest.core.streams import (
    REPLAY,
    Position,
    Streams,
    change,
    committed,
    position_of,
    stream,
)
from services.ingest.core.violation import WITHOUT_A_ROW, Violation

KIND = "quarantine"
# A page looks at no more records than this, whatever it is asked to leave out.
RECORDS_A_PAGE_MAX = 20_000
_ID = re.compile(r"([a-z0-9-]{1,48})\.([a-z0-9]{1,20})\.([0-9]{1,18})\.([0-9]{1,9})")

State = Literal["held", "mended", "replayed"]
# Source, stream, version of the entry, number in the entry.
Place = tuple[str, str, int, int]


class Overlay(BaseModel):
    """What was done about a held record; `mended` is the digest of its new body, or empty."""

    model_config = ConfigDict(frozen=True)

    state: State = "held"
    mended: str = ""


@dataclass(frozen=True, slots=True)
class Quarantined:
    id: str
    tenant: str
    source: str
    state: State
    record: Held
    mended: bytes
    at: datetime
    by: str
    cause: str


@dataclass(frozen=True, slots=True)
class Quarantine:
    journal: Journal
    objects: ObjectStore
    clock: Clock
    sources: Sources
    streams: Streams
    notice: Notice

    async def get(self, tenant: str, identifier: str) -> Quarantined:
        match = _ID.fullmatch(identifier)
        if match is not None:
            source, partition = match[1], match[2]
            version, number = int(match[3]), int(match[4])
            entry = await self.streams.at(tenant, source, partition, version)
            if entry is not None:
                overlay = await self.journal.latest(aggregate(tenant, KIND, identifier))
                async for _, held in self._held(entry, number):
                    return await self._shown(entry, source, identifier, held, overlay)
        raise NotFoundError(
            f"There is no quarantined record {identifier!r}.",
            which=identifier,
            next_step="`basalt quarantine list` shows those there are.",
        )

    async def page(
        self, tenant: str, source: str, state: State | None, token: str, size: int
    ) -> tuple[list[Quarantined], str]:
        """Records by source and stream, in each the newest entry first; and the next page's token.

        A page may be shorter than asked for and still have a next one.
        """
        if source:
            await self.sources.get(tenant, source)
        page: list[Quarantined] = []
        looked_at = shown_bytes = 0
        async for place, record in self._walk(tenant, source, _place(token)):
            full = len(page) >= size or shown_bytes >= paging.PAGE_BYTES_MAX
            if full or looked_at >= RECORDS_A_PAGE_MAX:
                return page, paging.token(*place)
            looked_at += 1
            if state is None or record.state == state:
                page.append(record)
                shown_bytes += len(record.record.body) + len(record.mended)
        return page, ""

    async def mend(self, tenant: str, identifier: str, body: bytes, by: str) -> Quarantined:
        """Raises InvalidInputError while the body still breaks the contract: the record stays."""
        record = await self.get(tenant, identifier)
        if len(body) > RECORD_BYTES_MAX:
            raise InvalidInputError(
                f"The mended record has {len(body)} bytes.",
                which=identifier,
                next_step=f"A record has at most {RECORD_BYTES_MAX}.",
            )
        terms = await self.sources.terms(tenant, record.source)
        fault = _fault(terms, body)
        if fault is not None:
            raise InvalidInputError(
                f"The mended record still breaks the contract: {fault.detail}",
                which=identifier,
                next_step="The record stays as it was; mend it again.",
            )
        await self.objects.put(f"{tenant}/mended/{digest(body)}", body)

        async def decide(latest: Entry | None) -> Change | None:
            # Sent in is sent in, also when the note of it was not written: see `replay`.
            sent = await self.journal.store.by_cause(
                stream(tenant, record.source, REPLAY), identifier
            )
            if sent is not None or (latest is not None and _overlay(latest).state == "replayed"):
                raise PreconditionError(
                    f"The record {identifier} was replayed already.",
                    which=identifier,
                    next_step="Publish a new event to change what it said.",
                )
            mended = Overlay(state="mended", mended=digest(body))
            return Change("RecordMended", mended.model_dump())

        overlay = aggregate(tenant, KIND, identifier)
        await self.journal.decide(overlay, self.clock.new_id(), by, decide)
        return await self.get(tenant, identifier)

    async def replay(self, tenant: str, identifier: str, by: str) -> tuple[Quarantined, bool]:
        """Sends the mended record in, or the original if the contract allows it by now; once.

        Also answers whether another call did so before. Raises PreconditionError while the record
        still breaks the contract.
        """
        cause = self.journal.this_call()
        record = await self.get(tenant, identifier)
        body = record.mended or record.record.row
        if record.state != "replayed":
            await self._send_in(record, body, by)
        state = Overlay(state="replayed", mended=digest(body) if record.mended else "")

        async def decide(latest: Entry | None) -> Change | None:
            if latest is not None and _overlay(latest).state == "replayed":
                return None
            return Change("RecordReplayed", state.model_dump())

        # Only now: a crash before this leaves a record that was sent in and may be sent in again,
        # to no effect, and never one that says so and was not.
        entry = await self.journal.decide(aggregate(tenant, KIND, identifier), cause, by, decide)
        return await self.get(tenant, identifier), entry.cause != cause

    async def _send_in(self, record: Quarantined, body: bytes, by: str) -> None:
        """Appends a chunk of one row to the stream of replays; the record's id is the cause."""
        tenant, source = record.tenant, record.source
        terms = await self.sources.terms(tenant, source)
        fault = _fault(terms, body)
        if not record.mended and record.record.reason in WITHOUT_A_ROW:
            fault = Violation("unparsable", record.record.detail)
        if fault is not None:
            raise PreconditionError(
                f"The record {record.id} still breaks the contract: {fault.detail}",
                which=record.id,
                next_step="Mend it first: `basalt quarantine mend`.",
            )
        row = Row(
            position=0,
            identity=record.record.identity or f"/quarantine {record.id}",
            occurred_us=_occurred_us(record),
            value=bodies.parse(body),
            body=body,
            origin=record.record.origin,
        )
        chunks, _ = await self.streams.store(tenant, gather_rows(terms.checker, [row]))

        async def decide(latest: Entry | None) -> Change:
            position = position_of(latest, tenant, source, REPLAY)
            state = position.after(
                next_offset=0,
                contract_revision=terms.revision,
                chunks=chunks,
                held=(),
                traceparent=telemetry.traceparent(),
            )
            return change("RecordReplayed", state)

        await self.journal.decide(stream(tenant, source, REPLAY), record.id, by, decide)
        self.notice(tenant, source)

    # Reading.

    async def _walk(
        self, tenant: str, source: str, place: Place
    ) -> AsyncIterator[tuple[Place, Quarantined]]:
        """Every held record from a place on, with the place of each."""
        name, partition, version, number = place
        after = ""
        if partition:
            position = await self.streams.position(tenant, name, partition)
            async for each in self._of_stream(position, version, number):
                yield each
            after = stream(tenant, name, partition)
        async for position in self.streams.walk(tenant, source, after):
            async for each in self._of_stream(position, _newest_held(position), 0):
                yield each

    async def _of_stream(
        self, position: Position, version: int, number: int
    ) -> AsyncIterator[tuple[Place, Quarantined]]:
        tenant, source, partition = position.tenant, position.source, position.partition
        while version:
            entry = await self.streams.at(tenant, source, partition, version)
            if entry is None:
                return
            about = await self._overlays(tenant, f"{source}.{partition}.{version}.")
            async for at, held in self._held(entry, number):
                identifier = f"{source}.{partition}.{version}.{at}"
                overlay = about.get(identifier)
                record = await self._shown(entry, source, identifier, held, overlay)
                yield (source, partition, version, at), record
            version, number = committed(entry).earlier_held, 0

    async def _held(self, entry: Entry, number: int) -> AsyncIterator[tuple[int, Held]]:
        """The held records of an entry from a number on."""
        first = 0
        for chunk in committed(entry).held:
            if number < first + chunk.rows:
                content = await self.streams.read(entry.tenant, "held", chunk.sha256)
                for at, held in enumerate(await asyncio.to_thread(read_held, content), first):
                    if at >= number:
                        yield at, held
            first += chunk.rows

    async def _overlays(self, tenant: str, prefix: str) -> dict[str, Entry]:
        """What was done about the records of one entry."""
        overlays: dict[str, Entry] = {}
        after = start = f"{tenant}/{KIND}/{prefix}"
        while page := await self.journal.store.heads(KIND, tenant, after):
            overlays |= {each.name: each for each in page if each.aggregate.startswith(start)}
            after = page[-1].aggregate
            if not after.startswith(start):
                break
        return overlays

    async def _shown(
        self, entry: Entry, source: str, identifier: str, held: Held, overlay: Entry | None
    ) -> Quarantined:
        said = _overlay(overlay) if overlay is not None else Overlay()
        mended = said.mended
        return Quarantined(
            id=identifier,
            tenant=entry.tenant,
            source=source,
            state=said.state,
            record=held,
            mended=await self.streams.read(entry.tenant, "mended", mended) if mended else b"",
            at=entry.at,
            by=entry.by,
            cause=entry.cause,
        )


def _overlay(entry: Entry) -> Overlay:
    return Overlay.model_validate(entry.state)


def _newest_held(position: Position) -> int:
    return position.version if position.state.held else position.state.earlier_held


def _place(token: str) -> Place:
    source, partition, version, number = paging.place(token, "", "", 0, 0)
    return source, partition, version, number


def _occurred_us(record: Quarantined) -> int:
    """When it occurred; of one whose time was wrong, when it came."""
    if record.record.reason != "future":
        return record.record.occurred_us
    return min(record.record.occurred_us, microseconds(record.at))


def _fault(terms: Terms, body: bytes) -> Violation | None:
    try:
        verdict = terms.checker.exact(bodies.parse(body))
    except orjson.JSONDecodeError as error:
        return unparsable(body, error)
    return verdict if isinstance(verdict, Violation) else None
