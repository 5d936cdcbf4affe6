"""Records that broke their contract: kept byte for byte, counted, and shown.

A held record lies in an object of the chunk that it came with, so its identifier says where:
<source>.<stream>.<version of the entry>.<number in the entry>. What was done about it since is in
`resolution.py`, and written by `remedies.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.errors import IntegrityError, NotFoundError
from libs.common.journal import Journal, aggregate
from libs.common.stores.ports import Entry
from services.ingest.core import numbers, paging
from services.ingest.core.chunk import Held, StoredChunk, read_held
from services.ingest.core.resolution import (
    KIND,
    NOT_TOUCHED,
    RESOLUTION,
    STATES,
    WAITING,
    Overlay,
    Resolution,
    State,
    read_bodies,
    resolution_of,
)
from services.ingest.core.sources import Sources
from services.ingest.core.streams import (
    PAGE,
    REPLAY,
    UPLOAD,
    Position,
    Streams,
    committed,
    stream,
)

# A page looks at no more records than this, whatever it is asked to leave out.
RECORDS_A_PAGE_MAX = 20_000
_ID = re.compile(r"([a-z0-9-]{1,48})\.([a-z0-9]{1,20})\.([0-9]{1,18})\.([0-9]{1,9})")

# Source, stream, version of the entry, number in the entry.
Place = tuple[str, str, int, int]
START: Place = "", "", 0, 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are meant: those for which everything that is given here holds.

    upload                  the key of the upload with which they came
    held_from, held_until   when they came, from the one up to before the other
    """

    source: str = ""
    states: frozenset[State] = frozenset(STATES)
    reason: str = ""
    upload: str = ""
    held_from: datetime | None = None
    held_until: datetime | None = None

    @property
    def whole_sources(self) -> bool:
        return not (self.upload or self.held_from or self.held_until)

    def may_hold(self, partition: str, entry: Entry) -> bool:
        """Whether some record of an entry may be meant."""
        if self.upload:
            of_upload = self.upload in (entry.cause, entry.cause.rpartition("@")[0])
            if partition != UPLOAD or not of_upload:
                return False
        if self.held_from is not None and entry.at < self.held_from:
            return False
        if self.held_until is not None and entry.at >= self.held_until:
            return False
        known = counted(entry)
        return not self.reason or known is None or self.reason in known

    def holds(self, state: State, held: Held) -> bool:
        """Whether a record is meant, of an entry that may hold some."""
        of_upload = f"upload/{self.upload}"
        return (
            state in self.states
            and self.reason in ("", held.reason)
            and (not self.upload or held.origin.rpartition("/")[0] == of_upload)
        )


EVERYTHING = Filter()


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
class Lot:
    """The records of one object of an entry, by their numbers in the entry.

    version   of its resolution; 0 while there is none
    bodies    that records were given
    digests   of those that records were given before lots had resolutions
    """

    name: str
    source: str
    entry: Entry
    version: int
    resolution: Resolution
    held: Mapping[int, Held]
    states: Mapping[int, State]
    bodies: Mapping[int, bytes]
    digests: Mapping[int, str]

    @property
    def tenant(self) -> str:
        return self.entry.tenant

    @property
    def aggregate(self) -> str:
        return aggregate(self.tenant, RESOLUTION, self.name)

    @property
    def first(self) -> int:
        return next(iter(self.held))

    def id_of(self, number: int) -> str:
        return f"{_entry_name(self.entry)}.{number}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many records of a source wait for one reason, and one of them."""

    source: str
    reason: str
    records: int
    example: Quarantined | None


@dataclass(frozen=True, slots=True)
class Quarantine:
    journal: Journal
    sources: Sources
    streams: Streams

    async def get(self, tenant: str, identifier: str) -> Quarantined:
        """Raises NotFoundError."""
        entry, first, number = await self._where(tenant, identifier)
        return await self.record(await self.lot(entry, first), number)

    async def page(
        self, tenant: str, wanted: Filter, token: str, size: int
    ) -> tuple[list[Quarantined], str]:
        """Records by source and stream, in each the newest entry first; and the next page's token.

        A page may be shorter than asked for and still have a next one.
        """
        if wanted.source:
            await self.sources.get(tenant, wanted.source)
        page: list[Quarantined] = []
        looked_at = shown_bytes = 0
        async for place, lot in self._walk(tenant, wanted, _place(token)):
            first = place[3]
            for number, held in lot.held.items() if lot else ((first, None),):
                if number < first:
                    continue
                full = len(page) >= size or shown_bytes >= paging.PAGE_BYTES_MAX
                if full or looked_at >= RECORDS_A_PAGE_MAX:
                    return page, paging.token(*place[:3], number)
                looked_at += 1
                if lot and held and wanted.holds(lot.states[number], held):
                    page.append(await self.record(lot, number))
                    shown_bytes += len(held.body) + len(held.row) + len(page[-1].mended)
        return page, ""

    async def count(self, tenant: str, wanted: Filter) -> list[Waiting]:
        """What waits, most first. Its states do not count: who has left waits no more."""
        if wanted.source:
            await self.sources.get(tenant, wanted.source)
        counts: Counter[tuple[str, str]] = Counter()
        streams: dict[str, list[Position]] = {}
        async for position in self.streams.walk(tenant, wanted.source):
            streams.setdefault(position.source, []).append(position)
        for source, positions in streams.items():
            waiting = totals(positions) if wanted.whole_sources else None
            if waiting is None:
                waiting = await self._counted(wanted, positions)
            counts.update({(source, reason): number for reason, number in waiting.items()})
        return [
            Waiting(source, reason, number, await self._example(tenant, wanted, source, reason))
            for (source, reason), number in counts.most_common()
            if number and wanted.reason in ("", reason)
        ]

    async def lots(self, tenant: str, wanted: Filter) -> AsyncIterator[Lot]:
        """Those in which some record may be meant, each as it stands when it is reached."""
        async for _, lot in self._walk(tenant, wanted, START):
            if lot is not None:
                yield lot

    async def named(
        self, tenant: str, ids: Iterable[str]
    ) -> AsyncIterator[tuple[Lot, frozenset[int]]]:
        """The lots of some records, each with their numbers in it. Raises NotFoundError."""
        lots: dict[tuple[str, int], tuple[Entry, int, set[int]]] = {}
        for identifier in ids:
            entry, first, number = await self._where(tenant, identifier)
            _, _, some = lots.setdefault((_entry_name(entry), first), (entry, first, set()))
            some.add(number)
        for entry, first, some in lots.values():
            yield await self.lot(entry, first), frozenset(some)

    async def lot(self, entry: Entry, first: int) -> Lot:
        """As it stands now."""
        tenant, name = entry.tenant, f"{_entry_name(entry)}.{first}"
        (chunk,) = [each for at, each in _lots(entry) if at == first]
        said = await self.journal.latest(aggregate(tenant, RESOLUTION, name))
        resolution = resolution_of(said)
        overlays = await self._overlays(entry)
        content = await self.streams.read(tenant, "held", chunk.sha256)
        records = await asyncio.to_thread(read_held, content)
        held = dict(enumerate(records, first))
        bodies = await self.bodies(tenant, resolution)
        replayed, discarded = numbers.read(resolution.replayed), numbers.read(resolution.discarded)
        states: dict[int, State] = {}
        digests: dict[int, str] = {}
        for number in held:
            overlay = overlays.get(f"{_entry_name(entry)}.{number}", NOT_TOUCHED)
            states[number] = overlay.state
            if number in bodies:
                states[number] = "mended"
            elif overlay.mended:
                digests[number] = overlay.mended
            if number in replayed or overlay.state == "replayed":
                states[number] = "replayed"
            elif number in discarded:
                states[number] = "discarded"
        version = said.version if said else 0
        return Lot(name, _source(entry), entry, version, resolution, held, states, bodies, digests)

    async def record(self, lot: Lot, number: int) -> Quarantined:
        return Quarantined(
            id=lot.id_of(number),
            tenant=lot.tenant,
            source=lot.source,
            state=lot.states[number],
            record=lot.held[number],
            mended=await self.mended(lot, number),
            at=lot.entry.at,
            by=lot.entry.by,
            cause=lot.entry.cause,
        )

    async def mended(self, lot: Lot, number: int) -> bytes:
        """The body that a record was given; b"" for none."""
        if number in lot.digests:
            return await self.streams.read(lot.tenant, "mended", lot.digests[number])
        return lot.bodies.get(number, b"")

    async def bodies(self, tenant: str, resolution: Resolution) -> dict[int, bytes]:
        """Those that records of a lot were given."""
        if resolution.mended is None:
            return {}
        content = await self.streams.read(tenant, "mended", resolution.mended.sha256)
        return await asyncio.to_thread(read_bodies, content)

    # Reading.

    async def _where(self, tenant: str, identifier: str) -> tuple[Entry, int, int]:
        """The entry of a record, the first number of its lot, and its own. Raises NotFoundError."""
        match = _ID.fullmatch(identifier)
        if match is not None:
            number = int(match[4])
            entry = await self.streams.at(tenant, match[1], match[2], int(match[3]))
            for first, chunk in _lots(entry) if entry else ():
                if entry and first <= number < first + chunk.rows:
                    return entry, first, number
        raise NotFoundError(
            f"There is no quarantined record {identifier!r}.",
            which=identifier,
            next_step="`basalt quarantine list` shows those there are.",
        )

    async def _walk(
        self, tenant: str, wanted: Filter, place: Place
    ) -> AsyncIterator[tuple[Place, Lot | None]]:
        """The lots from a place on; None for what is passed, so that whoever looks can stop."""
        name, partition, version, number = place
        after = ""
        if partition:
            position = await self.streams.position(tenant, name, partition)
            async for each in self._of_stream(wanted, position, version, number):
                yield each
            after = stream(tenant, name, partition)
        async for position in self.streams.walk(tenant, wanted.source, after):
            async for each in self._of_stream(wanted, position, _newest_held(position), 0):
                yield each

    async def _of_stream(
        self, wanted: Filter, position: Position, version: int, number: int
    ) -> AsyncIterator[tuple[Place, Lot | None]]:
        async for entry in self._entries(position, version):
            place = position.source, position.partition, entry.version
            start, number = number, 0
            if not wanted.may_hold(position.partition, entry):
                yield (*place, start), None
                continue
            left = await self._left(entry) if wanted.states <= WAITING else frozenset()
            for first, chunk in _lots(entry):
                if start < first + chunk.rows:
                    at = (*place, max(start, first))
                    yield at, None if first in left else await self.lot(entry, first)

    async def _entries(self, position: Position, version: int) -> AsyncIterator[Entry]:
        """Those with held records, from a version on back to the oldest."""
        while version:
            entry = await self.streams.at(
                position.tenant, position.source, position.partition, version
            )
            if entry is None:
                raise IntegrityError(
                    f"Entry {version} of a stream of {position.source} is missing.",
                    which=f"{position.source}.{position.partition}.{version}",
                    next_step="Restore the journal from a backup.",
                )
            yield entry
            version = committed(entry).earlier_held

    async def _counted(self, wanted: Filter, positions: Sequence[Position]) -> Counter[str]:
        """How many records wait, entry by entry."""
        counts: Counter[str] = Counter()
        for position in positions:
            async for entry in self._entries(position, _newest_held(position)):
                if wanted.may_hold(position.partition, entry):
                    counts.update(await self._waiting(entry))
        return counts

    async def _waiting(self, entry: Entry) -> Counter[str]:
        known = counted(entry)
        overlays = await self._overlays(entry)
        if known is None or any(each.state == "replayed" for each in overlays.values()):
            waiting: Counter[str] = Counter()
            for first, _ in _lots(entry):
                lot = await self.lot(entry, first)
                waiting.update(
                    held.reason
                    for number, held in lot.held.items()
                    if lot.states[number] in WAITING
                )
            return waiting
        waiting = Counter(known)
        for said in await self._resolutions(entry):
            waiting.subtract(resolution_of(said).left)
        return waiting

    async def _left(self, entry: Entry) -> frozenset[int]:
        """The lots of an entry that nothing is left of, by their first numbers."""
        rows = dict(_lots(entry))
        left: set[int] = set()
        for said in await self._resolutions(entry):
            first, resolution = int(said.name.rpartition(".")[2]), resolution_of(said)
            if resolution.leaving is None and sum(resolution.left.values()) == rows[first].rows:
                left.add(first)
        return frozenset(left)

    async def _example(
        self, tenant: str, wanted: Filter, source: str, reason: str
    ) -> Quarantined | None:
        narrow = replace(wanted, source=source, reason=reason, states=WAITING)
        page, _ = await self.page(tenant, narrow, "", 1)
        return page[0] if page else None

    async def _overlays(self, entry: Entry) -> dict[str, Overlay]:
        """What was done about single records of an entry, by identifier."""
        start = aggregate(entry.tenant, KIND, f"{_entry_name(entry)}.")
        heads = await self._about(start, committed(entry).held_rows)
        return {each.name: Overlay.model_validate(each.state) for each in heads}

    async def _resolutions(self, entry: Entry) -> list[Entry]:
        """Those of the lots of an entry."""
        start = aggregate(entry.tenant, RESOLUTION, f"{_entry_name(entry)}.")
        return await self._about(start, len(committed(entry).held))

    async def _about(self, start: str, most: int) -> list[Entry]:
        """The heads of the aggregates whose names begin so, of which there are so many at most.

        What is about the entries after it is not read with them.
        """
        tenant, kind, _ = start.split("/")
        found: list[Entry] = []
        while len(found) < most:
            after = found[-1].aggregate if found else start
            page = await self.journal.store.heads(kind, tenant, after, min(most, PAGE))
            own = [each for each in page if each.aggregate.startswith(start)]
            found += own
            if len(own) < min(most, PAGE):
                break
        return found


def counted(entry: Entry) -> Mapping[str, int] | None:
    """How many records an entry holds for each reason; None where that was not counted then."""
    state = committed(entry)
    return state.reasons if sum(state.reasons.values()) == state.held_rows else None


def totals(positions: Sequence[Position]) -> Counter[str] | None:
    """How many records of a source wait for each reason, by what its streams have counted.

    None where some came before that was counted.
    """
    held: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for position in positions:
        held.update(position.state.held_by_reason)
        left.update(position.state.left_by_reason)
    held_rows = sum(each.state.held_total for each in positions)
    left_rows = sum(each.left_total for each in positions)
    if (held.total(), left.total()) != (held_rows, left_rows):
        return None
    held.subtract(left)
    return held


def _lots(entry: Entry) -> list[tuple[int, StoredChunk]]:
    """The objects of an entry, each with the number of its first record."""
    lots: list[tuple[int, StoredChunk]] = []
    first = 0
    for chunk in committed(entry).held:
        lots.append((first, chunk))
        first += chunk.rows
    return lots


def _source(entry: Entry) -> str:
    return entry.aggregate.split("/")[2]


def _entry_name(entry: Entry) -> str:
    _, _, source, partition = entry.aggregate.split("/")
    return f"{source}.{partition}.{entry.version}"


def _newest_held(position: Position) -> int:
    if position.partition == REPLAY:
        return 0
    return position.version if position.state.held else position.state.earlier_held


def _place(token: str) -> Place:
    source, partition, version, number = paging.place(token, *START)
    return source, partition, version, number
