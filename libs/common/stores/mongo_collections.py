"""Collections of one MongoDB database, opened at first use; every refusal is one of our errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import IndexModel, WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError

from libs.common.errors import DependencyError, InvalidInputError

# A server that is gone is reported within these: before callers give up, see AUDIT_TIMEOUT_S.
SELECT_MS_MAX = 2_000
CONNECT_MS_MAX = 2_000
SOCKET_MS_MAX = 8_000
CONNECTIONS_MAX = 32


class MongoCollections:
    """The collections that `indexes` names, in the database that `address` names.

    `what` they are together is said in errors, such as "journal of ingest". Every write is
    acknowledged by the majority and on disk.
    """

    def __init__(
        self, address: str, what: str, indexes: Mapping[str, Sequence[IndexModel]], *, appname: str
    ) -> None:
        self._address = address
        self._what = what
        self._indexes = indexes
        self._appname = appname
        self._database = urlsplit(address).path.strip("/")
        if not self._database:
            raise InvalidInputError(
                "BASALT_JOURNAL names no database.",
                which="BASALT_JOURNAL",
                next_step="Use mongodb://HOST/DATABASE.",
            )
        self._opening = asyncio.Lock()
        self._client: AsyncIOMotorClient[dict[str, Any]] | None = None
        self._opened: dict[str, Any] = {}
        self._closed = False

    def __getitem__(self, name: str) -> Any:
        """A collection; only within `reached`."""
        return self._opened[name]

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[None]:
        """Around every use. Raises DependencyError; a DuplicateKeyError is for the caller."""
        try:
            await self._open()
            yield
        except DuplicateKeyError:
            raise
        except (PyMongoError, OSError) as error:
            raise DependencyError(
                f"The {self._what} cannot be reached.",
                which=self._what.partition(" of ")[0],
                next_step="Start its MongoDB, or set BASALT_JOURNAL to where it is.",
                inside=_reason(error),
            ) from error

    async def close(self) -> None:
        self._closed = True
        if self._client is not None:
            self._client.close()

    async def _open(self) -> None:
        if self._closed:
            raise DependencyError(
                f"The {self._what} is closed.",
                which=self._what.partition(" of ")[0],
                next_step="The service is stopping; try again when it is back.",
            )
        async with self._opening:
            if self._opened:
                return
            self._client = self._client or AsyncIOMotorClient(
                self._address,
                appname=self._appname,
                serverSelectionTimeoutMS=SELECT_MS_MAX,
                connectTimeoutMS=CONNECT_MS_MAX,
                socketTimeoutMS=SOCKET_MS_MAX,
                maxPoolSize=CONNECTIONS_MAX,
                # A repeated insert is known by its identifier, on any server.
                retryWrites=False,
            )
            database = self._client[self._database].with_options(
                write_concern=WriteConcern(w="majority", j=True)
            )
            for name, indexes in self._indexes.items():
                await _index(database[name], indexes)
            self._opened = {name: database[name] for name in self._indexes}


async def _index(collection: Any, indexes: Sequence[IndexModel]) -> None:
    """Creates the indexes that are missing, one by one.

    FerretDB falls over (a panic in its handler) when asked for several that exist.
    """
    existing = await collection.index_information()
    for index in indexes:
        if index.document["name"] not in existing:
            await collection.create_indexes([index])


def _reason(error: Exception) -> str:
    """The first sentence: the driver appends its whole view of the servers."""
    return str(error).partition(", Timeout:")[0].partition(" (configured")[0]
