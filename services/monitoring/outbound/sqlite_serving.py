"""Served batches, samples and drift reports in a SQLite file."""

from __future__ import annotations

import sqlite3
from array import array
from datetime import datetime
from pathlib import Path

import orjson

from libs.common.events import PredictionSample, PredictionsServed
from services.monitoring.core.drift import DriftReport
from services.monitoring.core.serving import Series, Totals
from services.monitoring.outbound import batches
from services.monitoring.outbound.sqlite_file import SqliteFile

SCHEMA = """
CREATE TABLE IF NOT EXISTS batch (
    id       TEXT PRIMARY KEY,
    tenant   TEXT NOT NULL,
    model    TEXT NOT NULL,
    version  INTEGER NOT NULL,
    since_us INTEGER NOT NULL,
    until_us INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    rows     INTEGER NOT NULL,
    errors   BLOB NOT NULL,
    latency  BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS batch_series ON batch (tenant, model, until_us);
CREATE INDEX IF NOT EXISTS batch_age ON batch (until_us);
CREATE TABLE IF NOT EXISTS sample (
    tenant   TEXT NOT NULL,
    model    TEXT NOT NULL,
    version  INTEGER NOT NULL,
    until_us INTEGER NOT NULL,
    id       TEXT NOT NULL,
    rows     INTEGER NOT NULL,
    content  BLOB NOT NULL,
    PRIMARY KEY (tenant, model, version, until_us, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS report (
    tenant  TEXT NOT NULL,
    model   TEXT NOT NULL,
    version INTEGER NOT NULL,
    at_us   INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (tenant, model, version, at_us)
) WITHOUT ROWID;
"""


class SqliteServing:
    """One transaction a batch: its counts and samples are there together, once."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, "serving store", SCHEMA)

    async def add(self, batch: PredictionsServed) -> bool:
        return await self._file.write(lambda connection: _add(connection, batch))

    async def totals(
        self, tenant: str, model: str = "", since: datetime | None = None
    ) -> dict[Series, Totals]:
        return await self._file.read(lambda connection: _totals(connection, tenant, model, since))

    async def samples(
        self, series: Series, since: datetime | None, rows_max: int
    ) -> list[PredictionSample]:
        since_us = batches.us(since) if since else 0

        def read(connection: sqlite3.Connection) -> list[bytes]:
            found: list[bytes] = []
            rows = 0
            for count, content in connection.execute(
                "SELECT rows, content FROM sample WHERE tenant = ? AND model = ? AND version = ?"
                " AND until_us >= ? ORDER BY until_us DESC, id DESC",
                (series.tenant, series.model, series.version, since_us),
            ):
                found.append(content)
                rows += count
                if rows >= rows_max:
                    break
            return found

        contents = await self._file.read(read)
        return batches.newest_first([batches.unpacked(content) for content in contents], since)

    async def put_report(self, tenant: str, report: DriftReport) -> None:
        row = (tenant, report.model, report.version, batches.us(report.at))
        content = report.model_dump_json().encode()
        await self._file.write(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO report VALUES (?, ?, ?, ?, ?)", (*row, content)
            )
        )

    async def reports(self, tenant: str, model: str) -> list[DriftReport]:
        rows = await self._file.read(
            lambda connection: connection.execute(
                "SELECT content, MAX(at_us) FROM report WHERE tenant = ? AND model = ?"
                " GROUP BY version",
                (tenant, model),
            ).fetchall()
        )
        return [DriftReport.model_validate_json(content) for content, _ in rows]

    async def prune(self, now: datetime) -> None:
        await self._file.write(lambda connection: _prune(connection, batches.us(now)))

    async def ping(self) -> None:
        await self._file.write(lambda connection: connection.execute("SELECT 1 FROM batch LIMIT 1"))

    async def close(self) -> None:
        await self._file.close()


def _add(connection: sqlite3.Connection, batch: PredictionsServed) -> bool:
    until_us = batches.us(batch.until)
    key = (batch.tenant, batch.model, batch.version)
    added = connection.execute(
        "INSERT OR IGNORE INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            batch.id,
            *key,
            batches.us(batch.since),
            until_us,
            batch.requests,
            batch.rows,
            orjson.dumps(batch.errors_by_code),
            array("q", batch.latency_ms_counts).tobytes(),
        ),
    ).rowcount
    if added and batch.samples:
        connection.execute(
            "INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *key,
                until_us,
                batch.id,
                batches.rows_of(batch.samples),
                batches.packed(batch.samples),
            ),
        )
    return bool(added)


def _totals(
    connection: sqlite3.Connection, tenant: str, model: str, since: datetime | None
) -> dict[Series, Totals]:
    found: dict[Series, Totals] = {}
    where, values = "tenant = ? AND until_us > ?", [tenant, batches.us(since) if since else 0]
    if model:
        where, values = f"model = ? AND {where}", [model, *values]
    for name, version, since_us, until_us, requests, rows, errors, latency in connection.execute(
        "SELECT model, version, since_us, until_us, requests, rows, errors, latency FROM batch"
        f" WHERE {where}",
        values,
    ):
        totals = found.setdefault(Series(tenant, name, version), Totals())
        totals.requests += requests
        totals.rows += rows
        for code, count in orjson.loads(errors).items():
            totals.add_errors(code, count)
        for bucket, count in enumerate(array("q", latency)):
            totals.latency_ms_counts[bucket] += count
        totals.cover(batches.at_us(since_us), batches.at_us(until_us))
    return found


def _prune(connection: sqlite3.Connection, now_us: int) -> None:
    oldest = now_us - batches.BATCH_US_MAX
    connection.execute("DELETE FROM batch WHERE until_us < ?", (oldest,))
    connection.execute("DELETE FROM sample WHERE until_us < ?", (oldest,))
    (count,) = connection.execute("SELECT COUNT(*) FROM batch").fetchone()
    connection.execute(
        "DELETE FROM batch WHERE id IN (SELECT id FROM batch ORDER BY until_us LIMIT ?)",
        (max(count - batches.BATCHES_MAX, 0),),
    )
    # Of each version the newest rows, and the newest reports, stay.
    connection.execute(
        "DELETE FROM sample WHERE (tenant, model, version, until_us, id) IN ("
        " SELECT tenant, model, version, until_us, id FROM (SELECT *, SUM(rows) OVER ("
        "  PARTITION BY tenant, model, version ORDER BY until_us DESC, id DESC) - rows AS newer"
        "  FROM sample) WHERE newer >= ?)",
        (batches.SAMPLE_ROWS_MAX,),
    )
    connection.execute(
        "DELETE FROM report WHERE (tenant, model, version, at_us) IN ("
        " SELECT tenant, model, version, at_us FROM (SELECT *, ROW_NUMBER() OVER ("
        "  PARTITION BY tenant, model, version ORDER BY at_us DESC) AS place FROM report)"
        " WHERE place > ?)",
        (batches.REPORTS_MAX,),
    )
