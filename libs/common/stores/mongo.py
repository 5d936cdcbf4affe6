"""The journal on any server that speaks MongoDB's wire protocol, through motor.

Only inserts, deletes, unique keys and point or range reads: no update in place, no transaction.

    <service>_journal  the entries: _id "<aggregate>/<version>"; unique (aggregate, cause)
    <service>_outbox   a pointer for each entry that has events to publish

Two collections cannot be written in one insert, so the pointer goes first, and says what is meant
to be written: aggregate, version and cause. It is deleted when the relay has published the entry,
or when the entry can no longer come, because its version or its cause is taken. Until then it
stays, so no entry is ever without one, whatever dies in between and whatever clocks say; and the
relay reads only what waits, however long the journal has grown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ASCENDING, DESCENDING, IndexModel, WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError
from ulid import ULID

from libs.common.errors import DependencyError, InvalidInputError
from libs.common.stores.encoding import decoded_outbox, encoded, from_us, to_us
from libs.common.stores.ports import CauseSeenError, Entry, VersionTakenError

# A server that is gone is reported within these, well before a caller's deadline.
SELECT_MS_MAX = 3_000
CONNECT_MS_MAX = 2_000
SOCKET_MS_MAX = 8_000
CONNECTIONS_MAX = 32
POINT_READS_AT_ONCE = 16

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
        self._address = address
        self._service = service
        self._database = urlsplit(address).path.strip("/")
        if not self._database:
            raise InvalidInputError(
                "BASALT_JOURNAL names no database.",
                which="BASALT_JOURNAL",
                next_step="Use mongodb://HOST/DATABASE.",
            )
        self._opening = asyncio.Lock()
        self._client: AsyncIOMotorClient[dict[str, Any]] | None = None
        self._journal: Any = None
        self._outbox: Any = None
        self._closed = False

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
        async with self._reached():
            await self._outbox.delete_many({"entry": {"$in": [entry.id for entry in entries]}})

    async def ping(self) -> None:
        async with self._reached():
            await self._journal.find_one({"_id": ""})

    async def close(self) -> None:
        self._closed = True
        if self._client is not None:
            self._client.close()

    async def _latest(self, aggregate: str) -> Entry | None:
        wanted = {"aggregate": aggregate}
        newest = self._journal.find(wanted).sort("version", DESCENDING).limit(1)
        return next((_entry(each) for each in await newest.to_list(1)), None)

    async def _find_one(self, **wanted: str) -> Entry | None:
        document = await self._journal.find_one(wanted)
        return None if document is None else _entry(document)

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[None]:
        """Around every use: opened before, and what the server refuses is one of our errors."""
        try:
            await self._open()
            yield
        except DuplicateKeyError:
            raise
        except (PyMongoError, OSError) as error:
            raise DependencyError(
                f"The journal of {self._service} cannot be reached: {_reason(error)}",
                which="journal",
                next_step="Start its MongoDB, or set BASALT_JOURNAL to where it is.",
            ) from error

    async def _open(self) -> None:
        if self._closed:
            raise DependencyError(
                f"The journal of {self._service} is closed.",
                which="journal",
                next_step="The service is stopping; try again when it is back.",
            )
        async with self._opening:
            if self._journal is not None:
                return
            self._client = self._client or AsyncIOMotorClient(
                self._address,
                appname=f"basalt-{self._service}",
                serverSelectionTimeoutMS=SELECT_MS_MAX,
                connectTimeoutMS=CONNECT_MS_MAX,
                socketTimeoutMS=SOCKET_MS_MAX,
                maxPoolSize=CONNECTIONS_MAX,
                # The journal knows a repeated insert by itself, on any server.
                retryWrites=False,
            )
            database = self._client[self._database].with_options(
                write_concern=WriteConcern(w="majority", j=True)
            )
            journal = database[f"{self._service}_journal"]
            outbox = database[f"{self._service}_outbox"]
            await _index(journal, JOURNAL_INDEXES)
            await _index(outbox, OUTBOX_INDEXES)
            self._outbox, self._journal = outbox, journal


async def _index(collection: Any, indexes: Sequence[IndexModel]) -> None:
    """Creates the indexes that are missing, one by one.

    FerretDB falls over (a panic in its handler) when asked for several that exist.
    """
    existing = await collection.index_information()
    for index in indexes:
        if index.document["name"] not in existing:
            await collection.create_indexes([index])


async def _each(work: Any, arguments: Sequence[Any]) -> list[Any]:
    """`work` on each argument, a few at once, in their order."""
    gate = asyncio.Semaphore(POINT_READS_AT_ONCE)

    async def one(argument: Any) -> Any:
        async with gate:
            return await work(argument)

    return await asyncio.gather(*(one(argument) for argument in arguments))


def _reason(error: Exception) -> str:
    """The first sentence: the driver appends its whole view of the servers."""
    return str(error).partition(", Timeout:")[0].partition(" (configured")[0]


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
