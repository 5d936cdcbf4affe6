"""The journal on any server that speaks MongoDB's wire protocol, through motor.

Only inserts, deletes, unique keys and point or range reads: no update in place, no transaction.

    <service>_journal  the entries: _id "<aggregate>/<version>"; unique (aggregate, cause)
    <service>_outbox   a pointer for each entry that has events to publish
    <service>_published  one for each whose events were published within a day

Two collections cannot be written in one insert, so the pointer goes first, and says what is meant
to be written: aggregate, version and cause. It is deleted when the relay has published the entry,
or when the entry can no longer come, because its version or its cause is taken. Until then it
stays, so no entry is ever without one, whatever dies in between and whatever clocks say; and the
relay reads only what waits, however long the journal has grown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import orjson
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError
from ulid import ULID

from libs.common.stores.encoding import decoded_outbox, encoded, from_us, to_us
from libs.common.stores.mongo_collections import MongoCollections
from libs.common.stores.ports import (
    PUBLISHED_KEPT_S,
    CauseSeenError,
    Entry,
    Published,
    VersionTakenError,
)

POINT_READS_AT_ONCE = 16
# Of a ULID: the rest is random.
ULID_TIME_CHARACTERS = 10

# An index for each way of reading; `version: 1` documents list the aggregates of a kind.
JOURNAL_INDEXES = [
    IndexModel([("aggregate", 1), ("cause", 1)], unique=True, name="cause"),
    IndexModel([("aggregate", 1), ("version", -1)], unique=True, name="version"),
    IndexModel(
        [("kind", ASCENDING), ("version", ASCENDING), ("aggregate", ASCENDING)], name="kind"
    ),
]
OUTBOX_INDEXES = [
    IndexModel([("entry", 1)], name="entry"),
    IndexModel([("aggregate", 1), ("version", 1)], name="aggregate"),
]


class MongoJournal:
    """The journal of one service in the database that `address` names."""

    def __init__(self, address: str, service: str) -> None:
        self._journal_name, self._outbox_name = f"{service}_journal", f"{service}_outbox"
        self._published_name = f"{service}_published"
        self._collections = MongoCollections(
            address,
            f"journal of {service}",
            {
                self._journal_name: JOURNAL_INDEXES,
                self._outbox_name: OUTBOX_INDEXES,
                self._published_name: (),
            },
            appname=f"basalt-{service}",
        )
        self._reached = self._collections.reached

    @property
    def _journal(self) -> Any:
        return self._collections[self._journal_name]

    @property
    def _outbox(self) -> Any:
        return self._collections[self._outbox_name]

    @property
    def _published(self) -> Any:
        return self._collections[self._published_name]

    async def insert(self, entry: Entry) -> None:
        state, outbox = encoded(entry)
        document = {
            "_id": entry.id,
            "aggregate": entry.aggregate,
            "version": entry.version,
            "cause": entry.cause,
            "tenant": entry.tenant,
            "kind": entry.kind,
            "type": entry.type,
            # JSON as text: BSON knows no large integers and rounds times to milliseconds.
            "state": state.decode(),
            "outbox": outbox.decode(),
            "at_us": to_us(entry.at),
            "by": entry.by,
        }
        async with self._reached():
            pointer = await self._point_to(entry) if entry.outbox else None
            try:
                await self._journal.insert_one(document)
            except DuplicateKeyError as error:
                if pointer is not None:
                    await self._outbox.delete_one({"_id": pointer})
                seen = await self._find_one(aggregate=entry.aggregate, cause=entry.cause)
                if seen is not None:
                    raise CauseSeenError(seen) from error
                raise VersionTakenError(entry.id) from error

    async def _point_to(self, entry: Entry) -> str:
        # An identifier of this attempt alone: whoever loses the race deletes only its own pointer.
        pointer = str(ULID())
        await self._outbox.insert_one(
            {
                "_id": pointer,
                "entry": entry.id,
                "aggregate": entry.aggregate,
                "version": entry.version,
                "cause": entry.cause,
            }
        )
        return pointer

    async def latest(self, aggregate: str) -> Entry | None:
        async with self._reached():
            return await self._latest(aggregate)

    async def by_cause(self, aggregate: str, cause: str) -> Entry | None:
        async with self._reached():
            return await self._find_one(aggregate=aggregate, cause=cause)

    async def history(
        self, aggregate: str, after_version: int = 0, limit: int = 500
    ) -> list[Entry]:
        wanted = {"aggregate": aggregate, "version": {"$gt": after_version}}
        async with self._reached():
            found = self._journal.find(wanted).sort("version", ASCENDING).limit(limit)
            return [_entry(document) async for document in found]

    async def heads(
        self, kind: str, tenant: str | None = None, after: str = "", limit: int = 500
    ) -> list[Entry]:
        within: dict[str, str] = {"$gt": after}
        if tenant is not None:
            # "0" follows "/", so the range holds the tenant's aggregates and no other's.
            within = {"$gt": max(after, f"{tenant}/"), "$lt": f"{tenant}0"}
        wanted = {"kind": kind, "version": 1, "aggregate": within}
        async with self._reached():
            firsts = self._journal.find(wanted, {"aggregate": 1}).sort("aggregate").limit(limit)
            aggregates = [document["aggregate"] async for document in firsts]
            heads = await _each(self._latest, aggregates)
        return [head for head in heads if head is not None]

    async def unrelayed(self, limit: int = 500) -> list[Entry]:
        waiting: list[Entry] = []
        after = ""
        async with self._reached():
            while len(waiting) < limit:
                page = self._outbox.find({"_id": {"$gt": after}}).sort("_id").limit(limit)
                pointers = [pointer async for pointer in page]
                if not pointers:
                    break
                after = pointers[-1]["_id"]
                known = {entry.aggregate for entry in waiting}
                new = {pointer["aggregate"] for pointer in pointers} - known
                waiting += await self._waiting(sorted(new), limit)
        return waiting

    async def _waiting(self, aggregates: list[str], limit: int) -> list[Entry]:
        """The waiting entries of these aggregates, each from its oldest one on.

        The pages before are in the order of several processes' clocks, which is not good enough.
        """
        wanted = {"aggregate": {"$in": aggregates}}
        order = [("aggregate", ASCENDING), ("version", ASCENDING)]
        pointers = [each async for each in self._outbox.find(wanted).sort(order).limit(limit)]
        found = await _each(self._pointed_to, pointers)
        # Two attempts may point to one entry.
        return list({entry.id: entry for entry in found if entry is not None}.values())

    async def _pointed_to(self, pointer: dict[str, Any]) -> Entry | None:
        """The entry that a pointer announced: None when it has not come, or never can."""
        document = await self._journal.find_one({"_id": pointer["entry"]})
        if document is not None and document["cause"] == pointer["cause"]:
            return _entry(document)
        seen = await self._find_one(aggregate=pointer["aggregate"], cause=pointer["cause"])
        if document is not None or seen is not None:
            await self._outbox.delete_one({"_id": pointer["_id"]})
        return None

    async def mark_relayed(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        identifiers = [entry.id for entry in entries]
        long_ago = _place(time.time() - PUBLISHED_KEPT_S)
        async with self._reached():
            # First, so that whoever dies in between has told it twice rather than never.
            await self._published.insert_many(
                [{"_id": str(ULID()), "entry": each} for each in identifiers]
            )
            await self._outbox.delete_many({"entry": {"$in": identifiers}})
            await self._published.delete_many({"_id": {"$lt": long_ago}})

    async def published(self, after: str = "", limit: int = 500) -> list[Published]:
        since = max(after, _place(time.time() - PUBLISHED_KEPT_S))
        async with self._reached():
            page = self._published.find({"_id": {"$gt": since}}).sort("_id").limit(limit)
            pointers = [pointer async for pointer in page]
            wanted = [{"_id": pointer["entry"]} for pointer in pointers]
            found = await _each(self._journal.find_one, wanted)
        return [
            Published(pointer["_id"], _entry(document))
            for pointer, document in zip(pointers, found, strict=True)
            if document is not None
        ]

    async def ping(self) -> None:
        async with self._reached():
            await self._journal.find_one({"_id": ""})

    async def close(self) -> None:
        await self._collections.close()

    async def _latest(self, aggregate: str) -> Entry | None:
        wanted = {"aggregate": aggregate}
        newest = self._journal.find(wanted).sort("version", DESCENDING).limit(1)
        return next((_entry(each) for each in await newest.to_list(1)), None)

    async def _find_one(self, **wanted: str) -> Entry | None:
        document = await self._journal.find_one(wanted)
        return None if document is None else _entry(document)


def _place(at_s: float) -> str:
    """The least identifier of that moment."""
    return str(ULID.from_timestamp(at_s))[:ULID_TIME_CHARACTERS]


async def _each(work: Any, arguments: Sequence[Any]) -> list[Any]:
    """`work` on each argument, a few at once, in their order."""
    gate = asyncio.Semaphore(POINT_READS_AT_ONCE)

    async def one(argument: Any) -> Any:
        async with gate:
            return await work(argument)

    return await asyncio.gather(*(one(argument) for argument in arguments))


def _entry(document: dict[str, Any]) -> Entry:
    return Entry(
        aggregate=document["aggregate"],
        version=document["version"],
        cause=document["cause"],
        type=document["type"],
        state=orjson.loads(document["state"]),
        outbox=decoded_outbox(document["outbox"]),
        at=from_us(document["at_us"]),
        by=document["by"],
    )
