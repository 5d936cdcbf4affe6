"""A SQLite file for what has a high rate: one connection that writes, one that reads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from libs.common.errors import DependencyError
from libs.common.stores.sqlite import Place, connected

T = TypeVar("T")

log = structlog.get_logger(__name__)


class SqliteFile:
    """`which` names the store in errors. Readers do not wait for the writer (WAL)."""

    def __init__(self, path: Path, which: str, schema: str, *, synchronous: str = "FULL") -> None:
        self._path = path
        self._which = which
        self._schema = schema
        self._synchronous = synchronous
        self._opening, self._writing = threading.Lock(), threading.Lock()
        self._reading = threading.Lock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self._place = Place(path)
        self._closed = False

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """The writer and the reader, opened by whatever is asked first."""
        with self._opening:
            if self._closed:
                raise sqlite3.OperationalError("it is closed")
            if self._connections is not None and self._place.is_lost():
                # It can be made anew; what was in it is where somebody moved it.
                log.warning("store_made_anew", store=self._which)
                with self._writing, self._reading:
                    self._disconnect()
            if self._connections is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                writer = connected(self._path, self._synchronous)
                writer.executescript(self._schema)
                self._connections = writer, connected(self._path, self._synchronous)
                self._place = Place(self._path)
            return self._connections

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in one transaction; it is on the disk when this returns."""
        # Shielded: a caller that gives up must not leave a half-finished transaction's thread.
        return await asyncio.shield(asyncio.to_thread(self.write_now, work))

    def write_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            writer, _ = self._open()
            with self._writing:
                writer.execute("BEGIN IMMEDIATE")
                try:
                    outcome = work(writer)
                    writer.execute("COMMIT")
                except BaseException:
                    if writer.in_transaction:
                        writer.execute("ROLLBACK")
                    raise
                return outcome
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._read, work)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            _, reader = self._open()
            with self._reading:
                return work(reader)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._opening, self._writing, self._reading:
            self._closed = True
            self._disconnect()

    def _disconnect(self) -> None:
        for connection in self._connections or ():
            connection.close()
        self._connections = None

    def _unavailable(self, error: Exception) -> DependencyError:
        full = "full" in str(error)
        reason = error.strerror if isinstance(error, OSError) else error
        return DependencyError(
            f"The store of {self._which} answers: {reason}.",
            which=self._which,
            next_step="Free space on its disk." if full else "Look at the disk it lies on.",
            inside=str(self._path),
        )
