"""Spans in a SQLite file: taken into a bounded queue, written in batches, forgotten by age."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import structlog

from libs.common.clock import Clock
from libs.common.errors import BasaltError, LimitError
from libs.common.runtime import ended, lasting
from services.monitoring.core.spans import SPANS_WAITING_MAX, Span, TraceSummary
from services.monitoring.outbound.sqlite_file import SqliteFile

WRITE_AFTER_S = 0.1
WRITE_SPANS_MAX = 5_000
PRUNE_AFTER_S = 60.0
PRUNED_TRACES_MAX = 1_000
US = 1_000_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS span (
    trace_id    TEXT NOT NULL,
    span_id     TEXT NOT NULL,
    parent_id   TEXT NOT NULL,
    service     TEXT NOT NULL,
    name        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    started_us  INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    status      TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    attributes  BLOB NOT NULL,
    links       BLOB NOT NULL,
    PRIMARY KEY (trace_id, span_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trace (
    trace_id   TEXT PRIMARY KEY,
    started_us INTEGER NOT NULL,
    ended_us   INTEGER NOT NULL,
    spans      INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    root       TEXT NOT NULL,
    root_us    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trace_started ON trace (started_us, trace_id);
CREATE TABLE IF NOT EXISTS trace_tenant (
    tenant   TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    PRIMARY KEY (tenant, trace_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS link (
    trace_id TEXT NOT NULL,
    linked   TEXT NOT NULL,
    PRIMARY KEY (trace_id, linked)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS link_back ON link (linked, trace_id);
"""
# A span with a parent elsewhere counts as the root only until the real one is there.
ROOTLESS_US = 1 << 62
log = structlog.get_logger(__name__)


class SqliteTraces:
    """A part of the runtime. The newest spans are at most a tenth of a second from the disk.

    `problem` says why spans are not being written, for the service's health.
    """

    name = "traces"

    def __init__(self, path: Path, clock: Clock, *, spans_max: int, age_s_max: float) -> None:
        self._file = SqliteFile(path, "trace store", SCHEMA, synchronous="NORMAL")
        self._clock = clock
        self._spans_max = spans_max
        self._age_us_max = round(age_s_max * US)
        self._waiting: list[Span] = []
        self._task: asyncio.Task[None] | None = None
        self.problem = ""

    async def start(self) -> None:
        """Raises DependencyError when the file cannot be opened."""
        await self.prune()
        self._task = lasting(self._run(), "traces")

    async def stop(self) -> None:
        await ended(self._task)
        with contextlib.suppress(BasaltError):
            await self.write_waiting()
        await self._file.close()

    async def add(self, spans: Sequence[Span]) -> None:
        if len(self._waiting) + len(spans) > SPANS_WAITING_MAX:
            raise LimitError(
                f"More than {SPANS_WAITING_MAX} spans wait to be written.",
                which="trace store",
                next_step="Send them again later.",
            )
        self._waiting.extend(spans)

    async def spans(self, trace_ids: Sequence[str], limit: int) -> list[Span]:
        marks = ", ".join("?" * len(trace_ids))
        rows = await self._file.read(
            lambda connection: connection.execute(
                f"SELECT * FROM span WHERE trace_id IN ({marks}) ORDER BY started_us LIMIT ?",
                (*trace_ids, limit),
            ).fetchall()
        )
        return [_span(row) for row in rows]

    async def linked(self, trace_ids: Sequence[str], limit: int) -> set[str]:
        if not trace_ids or limit <= 0:
            return set()
        marks = ", ".join("?" * len(trace_ids))
        rows = await self._file.read(
            lambda connection: connection.execute(
                f"SELECT linked FROM link WHERE trace_id IN ({marks})"
                f" UNION SELECT trace_id FROM link WHERE linked IN ({marks}) LIMIT ?",
                (*trace_ids, *trace_ids, limit + len(trace_ids)),
            ).fetchall()
        )
        return {linked for (linked,) in rows}

    async def newest(
        self, tenant: str | None, before: tuple[int, str] | None, limit: int
    ) -> list[TraceSummary]:
        where, values = "(started_us, trace_id) < (?, ?)", [*(before or (1 << 62, "g"))]
        if tenant is not None:
            where += " AND trace_id IN (SELECT trace_id FROM trace_tenant WHERE tenant = ?)"
            values.append(tenant)
        rows = await self._file.read(
            lambda connection: connection.execute(
                "SELECT trace_id, root, spans, failed, started_us, ended_us FROM trace"
                f" WHERE {where} ORDER BY started_us DESC, trace_id DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        )
        return [
            TraceSummary(trace_id, root, spans, bool(failed), started_us, ended_us - started_us)
            for trace_id, root, spans, failed, started_us, ended_us in rows
        ]

    async def _run(self) -> None:
        pruned_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(WRITE_AFTER_S)
            try:
                await self.write_waiting()
                if self._clock.monotonic() - pruned_at > PRUNE_AFTER_S:
                    await self.prune()
                    pruned_at = self._clock.monotonic()
                self.problem = ""
            except BasaltError as error:
                self.problem = str(error)
                log.warning("traces_not_written", error=str(error), waiting=len(self._waiting))
                await asyncio.sleep(WRITE_AFTER_S * 10)

    async def write_waiting(self) -> None:
        while self._waiting:
            batch = self._waiting[:WRITE_SPANS_MAX]
            await self._file.write(lambda connection, batch=batch: _write(connection, batch))
            del self._waiting[: len(batch)]

    async def prune(self) -> None:
        """Forgets whole traces, the oldest first: those that are too old, then those too many."""
        oldest = round(self._clock.now().timestamp() * US) - self._age_us_max
        more = True
        while more:
            more = await self._file.write(
                lambda connection: _prune(connection, oldest, self._spans_max)
            )


def _write(connection: sqlite3.Connection, spans: Sequence[Span]) -> None:
    for span in spans:
        added = connection.execute(
            "INSERT OR IGNORE INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(span)
        ).rowcount
        if not added:
            continue  # An exporter that got no answer sends again.
        root_us = span.started_us + (ROOTLESS_US if span.parent_span_id else 0)
        connection.execute(
            "INSERT INTO trace VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT (trace_id) DO UPDATE SET"
            " started_us = MIN(started_us, excluded.started_us),"
            " ended_us = MAX(ended_us, excluded.ended_us), spans = spans + 1,"
            " failed = MAX(failed, excluded.failed),"
            " root = CASE WHEN excluded.root_us < root_us THEN excluded.root ELSE root END,"
            " root_us = MIN(root_us, excluded.root_us)",
            (
                span.trace_id,
                span.started_us,
                span.started_us + span.duration_us,
                span.failed,
                f"{span.service}: {span.name}",
                root_us,
            ),
        )
        if span.tenant:
            connection.execute(
                "INSERT OR IGNORE INTO trace_tenant VALUES (?, ?)", (span.tenant, span.trace_id)
            )
        connection.executemany(
            "INSERT OR IGNORE INTO link VALUES (?, ?)",
            [(span.trace_id, linked) for linked in span.linked_trace_ids],
        )


def _prune(connection: sqlite3.Connection, oldest_us: int, spans_max: int) -> bool:
    """Deletes some traces; whether there may be more to delete."""
    (count,) = connection.execute("SELECT COALESCE(SUM(spans), 0) FROM trace").fetchone()
    doomed: list[tuple[str]] = []
    for trace_id, ended_us, spans in connection.execute(
        "SELECT trace_id, ended_us, spans FROM trace ORDER BY started_us LIMIT ?",
        (PRUNED_TRACES_MAX,),
    ):
        if count <= spans_max and ended_us >= oldest_us:
            break
        doomed.append((trace_id,))
        count -= spans
    for table in ("span", "trace", "trace_tenant", "link"):
        connection.executemany(f"DELETE FROM {table} WHERE trace_id = ?", doomed)
    return len(doomed) == PRUNED_TRACES_MAX


def _row(span: Span) -> tuple[Any, ...]:
    return (
        span.trace_id,
        span.span_id,
        span.parent_span_id,
        span.service,
        span.name,
        span.kind,
        span.started_us,
        span.duration_us,
        span.failed,
        span.status_message,
        span.tenant,
        orjson.dumps(span.attributes),
        orjson.dumps(span.linked_trace_ids),
    )


def _span(row: tuple[Any, ...]) -> Span:
    *plain, failed, status, tenant, attributes, links = row
    trace_id, span_id, parent_id, service, name, kind, started_us, duration_us = plain
    return Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_id,
        service=service,
        name=name,
        kind=kind,
        started_us=started_us,
        duration_us=duration_us,
        failed=bool(failed),
        status_message=status,
        tenant=tenant,
        attributes=orjson.loads(attributes),
        linked_trace_ids=tuple(orjson.loads(links)),
    )
