"""Signed heads of a tenant's audit log: whoever keeps one notices any rewriting before it.

The tree of RFC 9162 stands over the records' hashes, so that logs from before there were
checkpoints have it, too. A checkpoint goes on from the one before: appending costs nothing, a
checkpoint what was appended since. Subtrees of 256 records, and of 256 of those, are kept, so that
a proof reads a few hundred hashes of a log of millions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from pydantic import BaseModel, ConfigDict

from libs.common.clock import Clock
from libs.common.errors import IntegrityError, NotFoundError
from libs.common.journal import Change, Journal, aggregate
from libs.common.stores.ports import Entry
from services.security.core import audit, merkle, notes
from services.security.core.audit import Record
from services.security.core.checkpoint_keys import CheckpointKeys
from services.security.core.merkle import Frontier
from services.security.ports import KeptCheckpoints

KIND = "checkpoint"
TILE_KIND = "audit-tile"
# Leaves of a tile, and tiles of a tile above: 2^8.
TILE_HEIGHT = 8
TILE_LEVELS = 4
# A log that changed has a new checkpoint after so long, or so many records.
EVERY = timedelta(hours=1)
RECORDS_MAX = 1_000
PAGE_RECORDS = 500

log = structlog.get_logger(__name__)


class Checkpoint(BaseModel):
    """`frontier` are the hashes of the tree's peaks, `last_hash` the newest record's."""

    model_config = ConfigDict(frozen=True)

    size: int
    last_hash: str
    frontier: tuple[str, ...]
    note: str
    key_id: str
    # Whether it is where nobody changes it: `KeptCheckpoints`.
    kept: bool = False

    def tree(self) -> Frontier:
        return Frontier(self.size, [bytes.fromhex(each) for each in self.frontier])


class Tile(BaseModel):
    """The head of a whole subtree, in hex."""

    model_config = ConfigDict(frozen=True)

    hash: str


@dataclass(slots=True)
class Checkpoints:
    journal: Journal
    clock: Clock
    keys: CheckpointKeys
    store: KeptCheckpoints
    # Whose log was found to be the one that was kept, since this process began.
    _compared: set[str] = field(default_factory=set[str])

    async def newest(self, tenant: str) -> Checkpoint:
        """Of the log as it is now: the one that is there, unless records came since.

        Raises IntegrityError when the log does not continue the checkpoint before, or is not the
        one that was kept under lock.
        """
        await self._compare(tenant)
        size = await self._size(tenant)
        for _ in range(2):
            latest = await self.journal.latest(_of(tenant))
            before = Checkpoint.model_validate(latest.state) if latest else None
            if before is not None and before.size == size:
                return await self._keep(tenant, before)
            made = await self._grown(tenant, before, size)
            after = latest.version if latest else 0

            async def decide(
                now: Entry | None, made: Checkpoint = made, after: int = after
            ) -> Change | None:
                # Another replica was first: what it made is looked at again.
                unchanged = (now.version if now else 0) == after
                return Change("CheckpointMade", made.model_dump()) if unchanged else None

            entry = await self.journal.decide(_of(tenant), self.clock.new_id(), "security", decide)
            found = Checkpoint.model_validate(entry.state)
            if found.size >= size:
                return await self._keep(tenant, found)
        raise IntegrityError(
            f"The audit log of {tenant} has grown, and its checkpoints have not.",
            which="audit",
            next_step="Compare with one that you kept: `basalt audit verify --checkpoint FILE`.",
        )

    async def look(self) -> None:
        """Makes the checkpoints that are due. Raises what was wrong last, once all were tried.

        At first every log is compared with what was kept: it may be one that was put back.
        """
        failure: Exception | None = None
        made = {entry.tenant: entry for entry in await self.journal.heads(KIND)}
        logs = {entry.tenant: entry for entry in await self.journal.heads(audit.KIND)}
        for tenant in sorted(made | logs):
            try:
                if _due(logs.get(tenant), made.get(tenant), self.clock):
                    await self.newest(tenant)
                elif tenant not in self._compared:
                    await self._compare(tenant)
            except Exception as error:
                failure = error
                log.warning("checkpoint_failed", tenant=tenant, error=str(error))
        if failure is not None:
            raise failure

    async def _compare(self, tenant: str) -> None:
        self._compared.discard(tenant)
        kept = await self.store.newest(tenant)
        if kept is not None:
            told = notes.read(kept)
            size = await self._size(tenant)
            same = told.size <= size and await self.head(tenant, told.size) == told.head
            if not same:
                raise IntegrityError(
                    f"The audit log of {tenant} was cut or rewritten before its record"
                    f" {told.size + 1}: it is not the one whose checkpoint was kept.",
                    which="audit",
                    next_step="Restore security's journal from before, and find out who can write"
                    " it.",
                )
        self._compared.add(tenant)

    # Proofs, of a log that has a checkpoint of that size or a later one.

    async def consistency(self, tenant: str, first: int, second: int) -> list[bytes]:
        await self._require(tenant, second)
        return await merkle.consistency_proof(first, second, self._whole(tenant))

    async def inclusion(self, tenant: str, sequence: int, size: int) -> list[bytes]:
        await self._require(tenant, size)
        return await merkle.inclusion_proof(sequence - 1, size, self._whole(tenant))

    async def head(self, tenant: str, size: int) -> bytes:
        return await merkle.head(size, self._whole(tenant))

    async def _require(self, tenant: str, size: int) -> None:
        there = await self._size(tenant)
        if size > there:
            raise NotFoundError(
                f"The audit log of {tenant} has {there} records, not {size}.",
                which="size",
                next_step="If a checkpoint says that it had more, its newest were cut off.",
            )

    def _whole(self, tenant: str) -> merkle.Whole:
        async def whole(start: int, size: int) -> bytes:
            height = size.bit_length() - 1
            for level in range(min(height // TILE_HEIGHT, TILE_LEVELS), 0, -1):
                across = 1 << level * TILE_HEIGHT
                tiles = await self.journal.store.history(
                    _tiles(tenant, level), start // across, size // across
                )
                if len(tiles) == size // across:
                    hashes = [Tile.model_validate(tile.state).hash for tile in tiles]
                    return _together([bytes.fromhex(each) for each in hashes])
            leaves = [_leaf(each) async for each in self._records(tenant, start, start + size)]
            return _together(leaves)

        return whole

    # Growing.

    async def _grown(self, tenant: str, before: Checkpoint | None, size: int) -> Checkpoint:
        tree = before.tree() if before is not None else Frontier()
        last_hash = before.last_hash if before is not None else audit.GENESIS
        if size < tree.size:
            raise _broken(tenant, size + 1, "is missing")
        async for record in self._records(tenant, tree.size, size):
            if record.previous_hash != last_hash or record.chained(last_hash) != record:
                raise _broken(tenant, record.sequence, "does not continue the one before it")
            last_hash = record.hash
            completed = tree.add(_leaf(record))
            for level in range(1, TILE_LEVELS + 1):
                if len(completed) >= level * TILE_HEIGHT:
                    tile = tree.size >> level * TILE_HEIGHT
                    await self._keep_tile(tenant, level, tile, completed[level * TILE_HEIGHT - 1])
        if tree.size != size:
            raise _broken(tenant, tree.size + 1, "is missing")
        key = self.keys.signing()
        text = notes.text(tenant, tree.size, tree.head)
        return Checkpoint(
            size=tree.size,
            last_hash=last_hash,
            frontier=tuple(each.hex() for each in tree.hashes),
            note=self.keys.signed(text, key),
            key_id=key.key_id,
        )

    async def _keep_tile(self, tenant: str, level: int, number: int, content: bytes) -> None:
        async def decide(latest: Entry | None) -> Change | None:
            there, tile = latest.version if latest else 0, Tile(hash=content.hex())
            return Change("TileKept", tile.model_dump()) if there == number - 1 else None

        await self.journal.decide(_tiles(tenant, level), f"tile/{number}", "security", decide)

    async def _keep(self, tenant: str, made: Checkpoint) -> Checkpoint:
        """Once it is under lock it says so; without the store it is tried again at the next one."""
        if made.kept:
            return made
        await self.store.keep(tenant, made.size, made.note)

        async def decide(latest: Entry | None) -> Change | None:
            now = Checkpoint.model_validate(latest.state) if latest else made
            if now.size != made.size or now.kept:
                return None
            return Change("CheckpointKept", now.model_copy(update={"kept": True}).model_dump())

        await self.journal.decide(_of(tenant), f"kept/{made.size}", "security", decide)
        return made.model_copy(update={"kept": True})

    async def _size(self, tenant: str) -> int:
        latest = await self.journal.latest(audit.log_of(tenant))
        return latest.version if latest else 0

    async def _records(self, tenant: str, after: int, until: int) -> AsyncIterator[Record]:
        """Records `after` + 1 to `until`."""
        while after < until:
            page = await self.journal.store.history(
                audit.log_of(tenant), after, min(PAGE_RECORDS, until - after)
            )
            if not page:
                return
            for entry in page:
                yield Record.model_validate(entry.state)
            after += len(page)


def _due(newest: Entry | None, latest: Entry | None, clock: Clock) -> bool:
    """Also of a log that is shorter than its checkpoint: making one says what is missing."""
    if latest is None:
        return True
    made = Checkpoint.model_validate(latest.state)
    size = newest.version if newest is not None else 0
    if size == made.size:
        return not made.kept
    grown = not 0 <= size - made.size < RECORDS_MAX
    return grown or clock.now() - latest.at >= EVERY


def _leaf(record: Record) -> bytes:
    return merkle.leaf_hash(bytes.fromhex(record.hash))


def _together(hashes: list[bytes]) -> bytes:
    """Of a power of two of them, side by side."""
    tree = Frontier()
    for each in hashes:
        tree.add(each)
    return tree.head


def _of(tenant: str) -> str:
    return aggregate(tenant, KIND, "log")


def _tiles(tenant: str, level: int) -> str:
    return aggregate(tenant, TILE_KIND, f"level-{level}")


def _broken(tenant: str, sequence: int, how: str) -> IntegrityError:
    return IntegrityError(
        f"Record {sequence} of the audit log of {tenant} {how}.",
        which="audit",
        next_step="`basalt audit verify` shows where; restore security's journal from before.",
    )
