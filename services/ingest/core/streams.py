"""What has been taken in: one journal aggregate a stream of a source.

    <tenant>/stream/<source>/<partition>    records of the upstream topic, an entry a chunk
    <tenant>/stream/<source>/upload         uploads, an entry each
    <tenant>/stream/<source>/replay         records that were mended in quarantine, an entry each

An entry names the chunk's objects and the offsets that it covers, so a chunk and the place to go
on from are committed by one insert. The entries with held records are chained newest to oldest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

from libs.common.errors import IntegrityError
from libs.common.journal import Change, Journal, aggregate
from libs.common.proof import UNKNOWN_EPOCH, Proof
from libs.common.stores.ports import Entry, ObjectStore
from services.ingest.core.chunk import Gathered, StoredChunk, digest

KIND = "stream"
UPLOAD, REPLAY = "upload", "replay"
PAGE = 500
UNPROVEN = Proof()  # Of what does not come from a log.


class Lines(BaseModel):
    """Of a file: what became of each of its lines, so that they add up."""

    model_config = ConfigDict(frozen=True)

    accepted: int = 0
    held: int = 0
    # The header, and empty ones.
    skipped: int = 0

    @property
    def read(self) -> int:
        return self.accepted + self.held + self.skipped


NO_LINES = Lines()


class Committed(BaseModel):
    """The state of a stream after one entry; the totals are those since the source was created.

    earlier_held    the version of the entry before this one that has held records; 0: none
    epoch           grows when the log became another one: offsets mean other records then
    topic_id        of the topic that was read, and
    leader_epoch    of the record before `next_offset`: by them a shorter log is known; -1: not kept
    discarded_total  of the stream of replays: records that left quarantine without being sent in
    reasons         of the records that this entry holds: how many for each
    held_by_reason  the same of all those since this began to be counted, and
    left_by_reason  of those that were replayed or discarded, in the stream of replays
    examples        what was wrong with the first of them
    lines           of an uploaded file
    traceparent     of the span that committed it, in the trace of its first record
    """

    model_config = ConfigDict(frozen=True)

    next_offset: int = 0
    epoch: int = 0
    topic_id: str = ""
    leader_epoch: int = UNKNOWN_EPOCH
    contract_revision: int = 0
    chunks: tuple[StoredChunk, ...] = ()
    held: tuple[StoredChunk, ...] = ()
    earlier_held: int = 0
    accepted_total: int = 0
    held_total: int = 0
    discarded_total: int = 0
    reasons: dict[str, int] = {}
    held_by_reason: dict[str, int] = {}
    left_by_reason: dict[str, int] = {}
    examples: tuple[str, ...] = ()
    lines: Lines = NO_LINES
    traceparent: str = ""

    @property
    def proof(self) -> Proof:
        return Proof(self.topic_id, self.leader_epoch)

    @property
    def accepted(self) -> int:
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def held_rows(self) -> int:
        return sum(chunk.rows for chunk in self.held)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream stands: after `version` entries, of which the last says `state`."""

    tenant: str
    source: str
    partition: str
    version: int
    state: Committed

    @property
    def left_total(self) -> int:
        """How many records have left quarantine by this stream."""
        if self.partition != REPLAY:
            return 0
        return self.state.accepted_total + self.state.discarded_total

    def after(
        self,
        *,
        next_offset: int,
        contract_revision: int,
        chunks: Sequence[StoredChunk],
        held: Sequence[StoredChunk],
        traceparent: str,
        proof: Proof = UNPROVEN,
        discarded: int = 0,
        reasons: Mapping[str, int] = MappingProxyType({}),
        left: Mapping[str, int] = MappingProxyType({}),
        examples: tuple[str, ...] = (),
        lines: Lines = NO_LINES,
    ) -> Committed:
        """The state of the next entry."""
        last = self.state
        return Committed(
            next_offset=next_offset,
            epoch=last.epoch,
            topic_id=proof.topic_id,
            leader_epoch=proof.leader_epoch,
            contract_revision=contract_revision,
            chunks=tuple(chunks),
            held=tuple(held),
            earlier_held=self.version if last.held else last.earlier_held,
            accepted_total=last.accepted_total + sum(chunk.rows for chunk in chunks),
            held_total=last.held_total + sum(chunk.rows for chunk in held),
            discarded_total=last.discarded_total + discarded,
            reasons=dict(reasons),
            held_by_reason=dict(Counter(last.held_by_reason) + Counter(reasons)),
            left_by_reason=dict(Counter(last.left_by_reason) + Counter(left)),
            examples=examples,
            lines=lines,
            traceparent=traceparent,
        )


@dataclass(frozen=True, slots=True)
class Streams:
    journal: Journal
    objects: ObjectStore

    async def position(self, tenant: str, source: str, partition: str) -> Position:
        entry = await self.journal.latest(stream(tenant, source, partition))
        return position_of(entry, tenant, source, partition)

    async def positions(self, tenant: str, source: str) -> list[Position]:
        """All streams of a source, by partition."""
        return [each async for each in self.walk(tenant, source)]

    async def walk(self, tenant: str, source: str = "", after: str = "") -> AsyncIterator[Position]:
        """The streams of a source, or of all, by aggregate, from the one after `after`."""
        prefix = f"{tenant}/{KIND}/{source}/" if source else f"{tenant}/{KIND}/"
        after = max(after, prefix)
        while page := await self.journal.store.heads(KIND, tenant, after, PAGE):
            for entry in page:
                if not entry.aggregate.startswith(prefix):
                    return
                _, _, name, partition = entry.aggregate.split("/")
                yield position_of(entry, tenant, name, partition)
            after = page[-1].aggregate

    async def at(self, tenant: str, source: str, partition: str, version: int) -> Entry | None:
        """One entry of a stream."""
        page = await self.journal.store.history(
            stream(tenant, source, partition), version - 1, limit=1
        )
        return page[0] if page and page[0].version == version else None

    async def between(self, position: Position, after_version: int) -> list[Entry]:
        """The entries after a version, up to the position, oldest first."""
        entries: list[Entry] = []
        name = stream(position.tenant, position.source, position.partition)
        while after_version < position.version:
            page = await self.journal.store.history(name, after_version, PAGE)
            entries += [entry for entry in page if entry.version <= position.version]
            after_version = page[-1].version if page else position.version
        return entries

    async def store(
        self, tenant: str, gathered: Gathered
    ) -> tuple[list[StoredChunk], list[StoredChunk]]:
        """Puts a chunk's objects, by their digests: to do so again changes nothing."""
        chunks = await self._put(tenant, "chunk", gathered.accepted, gathered.accepted_rows)
        held = await self._put(tenant, "held", gathered.held, gathered.held_rows)
        return chunks, held

    async def _put(self, tenant: str, kind: str, content: bytes, rows: int) -> list[StoredChunk]:
        if not rows:
            return []
        chunk = StoredChunk(sha256=digest(content), rows=rows, size_bytes=len(content))
        await self.objects.put(f"{tenant}/{kind}/{chunk.sha256}", content)
        return [chunk]

    async def read(self, tenant: str, kind: str, sha256: str) -> bytes:
        """An object by its digest. Raises IntegrityError when its bytes are others."""
        content = await self.objects.get(f"{tenant}/{kind}/{sha256}")
        if digest(content) != sha256:
            raise IntegrityError(
                f"The object {sha256[:12]}… no longer has the bytes that it was stored with.",
                which=sha256,
                next_step="Restore it from a backup.",
            )
        return content


def stream(tenant: str, source: str, partition: str) -> str:
    return aggregate(tenant, KIND, source, partition)


def position_of(entry: Entry | None, tenant: str, source: str, partition: str) -> Position:
    state = Committed() if entry is None else committed(entry)
    return Position(tenant, source, partition, entry.version if entry else 0, state)


def committed(entry: Entry) -> Committed:
    return Committed.model_validate(entry.state, strict=False)


def change(type_: str, state: Committed) -> Change:
    return Change(type_, _plain(state))


def _plain(state: Committed) -> dict[str, Any]:
    return state.model_dump(mode="json")
