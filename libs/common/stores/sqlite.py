"""The journal in a SQLite file: one writer thread, which commits what has gathered in one go."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from libs.common.errors import DependencyError
from libs.common.files import identity
from libs.common.stores.encoding import decoded_outbox, encoded, from_us, to_us
from libs.common.stores.ports import (
    PUBLISHED_KEPT_S,
    CauseSeenError,
    Entry,
    Published,
    VersionTakenError,
)

# What one transaction takes at the most: enough to share the cost of its fsync.
BATCH_MAX = 256
BUSY_MS_MAX = 5_000
BUSY_PAUSE_S = 0.02
# Beside the file of a journal: that there is one.
MADE = ".made"
LOST = "its file was moved or removed, so nothing is written"

# `outbox.number` grows with every commit, so an aggregate's versions wait in their order.
SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    aggregate TEXT NOT NULL,
    version   INTEGER NOT NULL,
    cause     TEXT NOT NULL,
    tenant    TEXT NOT NULL,
    kind      TEXT NOT NULL,
    type      TEXT NOT NULL,
    state     BLOB NOT NULL,
    outbox    BLOB NOT NULL,
    at_us     INTEGER NOT NULL,
    by        TEXT NOT NULL,
    PRIMARY KEY (aggregate, version)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS journal_cause ON journal (aggregate, cause);
CREATE INDEX IF NOT EXISTS journal_first ON journal (kind, aggregate) WHERE version = 1;
CREATE TABLE IF NOT EXISTS outbox (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    aggregate TEXT NOT NULL,
    version   INTEGER NOT NULL,
    UNIQUE (aggregate, version)
);
CREATE TABLE IF NOT EXISTS published (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    aggregate TEXT NOT NULL,
    version   INTEGER NOT NULL,
    at_us     INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS published_at ON published (at_us);
"""
COLUMNS = "aggregate, version, cause, type, state, outbox, at_us, by"


class SqliteJournal:
    """One file a service. An insert is on the disk (WAL, synchronous=FULL) when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._work: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._opening = threading.Lock()
        self._open: _Open | None = None
        self._closed = False

    async def insert(self, entry: Entry) -> None:
        row = _row(entry)
        await self._on_writer(lambda connection: _insert(connection, entry, row))

    async def latest(self, aggregate: str) -> Entry | None:
        return self._one(
            f"SELECT {COLUMNS} FROM journal WHERE aggregate = ? ORDER BY version DESC LIMIT 1",
            aggregate,
        )

    async def by_cause(self, aggregate: str, cause: str) -> Entry | None:
        return self._one(
            f"SELECT {COLUMNS} FROM journal WHERE aggregate = ? AND cause = ?", aggregate, cause
        )

    async def history(
        self, aggregate: str, after_version: int = 0, limit: int = 500
    ) -> list[Entry]:
        return await self._many(
            f"SELECT {COLUMNS} FROM journal WHERE aggregate = ? AND version > ?"
            " ORDER BY version LIMIT ?",
            aggregate,
            after_version,
            limit,
        )

    async def heads(
        self, kind: str, tenant: str | None = None, after: str = "", limit: int = 500
    ) -> list[Entry]:
        # "0" follows "/" in ASCII, so the range holds the tenant's aggregates and no other's.
        first, end = (f"{tenant}/", f"{tenant}0") if tenant is not None else ("", "\U0010ffff")
        return await self._many(
            f"SELECT {COLUMNS} FROM journal AS entry WHERE (aggregate, version) IN ("
            "  SELECT aggregate,"
            "    (SELECT MAX(version) FROM journal WHERE aggregate = first.aggregate)"
            "  FROM journal AS first WHERE version = 1 AND kind = ?"
            "  AND aggregate > ? AND aggregate >= ? AND aggregate < ? ORDER BY aggregate LIMIT ?"
            ") ORDER BY aggregate",
            kind,
            after,
            first,
            end,
            limit,
        )

    async def unrelayed(self, limit: int = 500) -> list[Entry]:
        columns = ", ".join(f"journal.{column.strip()}" for column in COLUMNS.split(","))
        return await self._many(
            f"SELECT {columns} FROM outbox JOIN journal USING (aggregate, version)"
            " ORDER BY outbox.number LIMIT ?",
            limit,
        )

    async def mark_relayed(self, entries: Sequence[Entry]) -> None:
        keys = [(entry.aggregate, entry.version) for entry in entries]
        now_us = time.time_ns() // 1_000
        await self._on_writer(lambda connection: _mark(connection, keys, now_us))

    async def published(self, after: str = "", limit: int = 500) -> list[Published]:
        columns = ", ".join(f"journal.{column.strip()}" for column in COLUMNS.split(","))
        sql = (
            f"SELECT published.number, {columns} FROM published"
            " JOIN journal USING (aggregate, version) WHERE published.number > ?"
            " ORDER BY published.number LIMIT ?"
        )
        rows = await asyncio.to_thread(self._rows, sql, (int(after or 0), limit))
        return [Published(str(number), _entry(tuple(row))) for number, *row in rows]

    async def ping(self) -> None:
        await self._on_writer(
            lambda connection: connection.execute("SELECT 1 FROM journal LIMIT 1")
        )

    async def close(self) -> None:
        """Everything that was asked for before is on the disk when this returns."""
        self._closed = True
        opened, self._open = self._open, None
        if opened is not None:
            self._work.put(None)
            await asyncio.to_thread(opened.writing.join)
            opened.points.close()
            with opened.reading:
                opened.ranges.close()

    # Reading: point reads are too quick to be worth a thread; ranges take one, and a connection.

    def _one(self, sql: str, *values: object) -> Entry | None:
        try:
            row = self._opened().points.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            raise _unavailable(self._path, error) from error
        return _entry(row) if row else None

    async def _many(self, sql: str, *values: object) -> list[Entry]:
        return await asyncio.to_thread(self._read, sql, values)

    def _read(self, sql: str, values: tuple[object, ...]) -> list[Entry]:
        return [_entry(row) for row in self._rows(sql, values)]

    def _rows(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        opened = self._opened()
        try:
            with opened.reading:
                return opened.ranges.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _unavailable(self._path, error) from error

    # Writing.

    async def _on_writer(self, work: Callable[[sqlite3.Connection], object]) -> None:
        self._opened()
        job = _Job(work, asyncio.get_running_loop())
        self._work.put(job)
        # Shielded, since a caller that gives up does not take back what it asked for.
        await asyncio.shield(job.done)

    def _opened(self) -> _Open:
        with self._opening:
            if self._closed:
                raise DependencyError(
                    "The journal is closed.",
                    which="journal",
                    next_step="The service is stopping; try again when it is back.",
                )
            if self._open is None:
                self._open = self._connect_all()
            return self._open

    def _connect_all(self) -> _Open:
        made = self._path.with_name(f"{self._path.name}{MADE}")
        if made.exists() and not self._path.exists():
            # A new one would be empty, and what is acknowledged then is gone once it is put back.
            raise DependencyError(
                "The journal's file is gone, and there was one.",
                which="journal",
                next_step="Put it back with what was beside it (-wal), or remove the file beside it"
                f" that ends in {MADE}, to begin without anything that there was.",
                inside=str(self._path),
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            writer = connected(self._path)
            writer.executescript(SCHEMA)
            made.touch()
            opened = _Open(
                writer,
                connected(self._path),
                connected(self._path),
                Place(self._path),
                self._write,
            )
        except (sqlite3.Error, OSError) as error:
            raise _unavailable(self._path, error) from error
        opened.writing.start()
        return opened

    def _write(self, connection: sqlite3.Connection, place: Place) -> None:
        open_ = True
        while open_:
            jobs = [self._work.get()]
            while len(jobs) < BATCH_MAX and not self._work.empty():
                jobs.append(self._work.get())
            open_ = None not in jobs
            self._commit(connection, place, [job for job in jobs if job is not None])
        connection.close()

    def _commit(self, connection: sqlite3.Connection, place: Place, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            if place.is_lost():
                raise sqlite3.OperationalError(LOST)
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job.run(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            # Misuse, which sqlite3 finds by itself, has no code.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                # What came meanwhile has found the same door shut: it does not wait anew.
                jobs += self._came_meanwhile()
            for job in jobs:
                job.refusal = _unavailable(self._path, error)
        # One wake-up of the event loop for all of them: it costs more than an insert.
        for loop in {job.loop for job in jobs}:
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
                loop.call_soon_threadsafe(_settle, [job for job in jobs if job.loop is loop])

    def _came_meanwhile(self) -> list[_Job]:
        jobs: list[_Job] = []
        while not self._work.empty():
            job = self._work.get()
            if job is None:
                self._work.put(None)  # Nothing comes after it.
                break
            jobs.append(job)
        return jobs


class _Open:
    """The connections of an open journal, and the thread that writes."""

    def __init__(
        self,
        writer: sqlite3.Connection,
        points: sqlite3.Connection,
        ranges: sqlite3.Connection,
        place: Place,
        write: Callable[[sqlite3.Connection, Place], None],
    ) -> None:
        self.writer = writer
        self.points = points
        self.ranges = ranges
        self.reading = threading.Lock()
        self.writing = threading.Thread(
            target=write, args=(writer, place), name="journal-writer", daemon=True
        )


class _Job:
    """A piece of writing, and the promise of its outcome once its transaction is on the disk."""

    def __init__(
        self, work: Callable[[sqlite3.Connection], object], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._work = work
        self.loop = loop
        self.done: asyncio.Future[None] = loop.create_future()
        self.refusal: Exception | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        try:
            # What it answers, a cursor, ends here: freed in another thread it would reset a
            # statement that this one has begun to use again.
            self._work(connection)
        except sqlite3.Error:
            raise  # The transaction is in doubt, and with it every other job in it.
        except Exception as refusal:
            # A refused statement leaves the others of the transaction as they are.
            self.refusal = refusal


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.done.cancelled():
            continue
        if job.refusal is None:
            job.done.set_result(None)
        else:
            job.done.set_exception(job.refusal)
            # It counts as seen even when the caller has given up meanwhile.
            job.done.exception()


class Place:
    """Whether the files that were opened are still those at their path.

    One that was moved or removed is written on by whoever has it open, and what is acknowledged is
    gone with the process.
    """

    def __init__(self, path: Path) -> None:
        self._files = {path: identity(path)}
        # SQLite makes it when it likes to; what is not in the file yet is in it.
        self._wal = path.with_name(f"{path.name}-wal")
        self._know_the_log()

    def is_lost(self) -> bool:
        self._know_the_log()
        return any(identity(path) != known for path, known in self._files.items())

    def _know_the_log(self) -> None:
        if self._wal not in self._files and (found := identity(self._wal)) is not None:
            self._files[self._wal] = found


def connected(path: Path, synchronous: str = "FULL") -> sqlite3.Connection:
    """For any thread, without transactions of its own. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS_MAX}")
    give_up_at = time.monotonic() + BUSY_MS_MAX / 1_000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Of two that open a new file at once, SQLite refuses one without any waiting.
            busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > give_up_at:
                raise
            time.sleep(BUSY_PAUSE_S)
    connection.execute(f"PRAGMA synchronous={synchronous}")
    return connection


def _unavailable(path: Path, error: sqlite3.Error | OSError) -> DependencyError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    next_step = "Look at its file: whether it is there, whole, and this service's to write."
    if "full" in str(error):
        next_step = "Free space on its disk; nothing was written."
    elif str(error) == LOST:
        next_step = "Put it back with all that was beside it (-wal, -shm): then everything goes on."
    return DependencyError(
        f"The journal answers: {reason}.", which="journal", next_step=next_step, inside=str(path)
    )


def _insert(connection: sqlite3.Connection, entry: Entry, row: tuple[object, ...]) -> None:
    try:
        connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    except sqlite3.IntegrityError as error:
        seen = connection.execute(
            f"SELECT {COLUMNS} FROM journal WHERE aggregate = ? AND cause = ?",
            (entry.aggregate, entry.cause),
        ).fetchone()
        if seen is not None:
            raise CauseSeenError(_entry(seen)) from error
        raise VersionTakenError(entry.id) from error
    if entry.outbox:
        connection.execute(
            "INSERT INTO outbox (aggregate, version) VALUES (?, ?)",
            (entry.aggregate, entry.version),
        )


def _mark(connection: sqlite3.Connection, keys: list[tuple[str, int]], now_us: int) -> None:
    """Moves outbox rows to what was published, and forgets what was published long ago."""
    for aggregate, version in keys:
        moved = connection.execute(
            "DELETE FROM outbox WHERE aggregate = ? AND version = ?", (aggregate, version)
        )
        if moved.rowcount:
            connection.execute(
                "INSERT INTO published (aggregate, version, at_us) VALUES (?, ?, ?)",
                (aggregate, version, now_us),
            )
    connection.execute(
        "DELETE FROM published WHERE at_us < ?", (now_us - PUBLISHED_KEPT_S * 1_000_000,)
    )


def _row(entry: Entry) -> tuple[object, ...]:
    state, outbox = encoded(entry)
    return (
        entry.aggregate,
        entry.version,
        entry.cause,
        entry.tenant,
        entry.kind,
        entry.type,
        state,
        outbox,
        to_us(entry.at),
        entry.by,
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    aggregate, version, cause, type_, state, outbox, at_us, by = row
    return Entry(
        aggregate=aggregate,
        version=version,
        cause=cause,
        type=type_,
        state=orjson.loads(state),
        outbox=decoded_outbox(outbox),
        at=from_us(at_us),
        by=by,
    )
