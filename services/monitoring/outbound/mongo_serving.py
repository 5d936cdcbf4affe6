"""Served batches, samples and drift reports in MongoDB. Only inserts, range reads and deletes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError

from libs.common.errors import DependencyError, InvalidInputError
from libs.common.events import PredictionSample, PredictionsServed
from services.monitoring.core.drift import DriftReport
from services.monitoring.core.serving import Series, Totals
from services.monitoring.outbound import batches

# A server that is gone is reported within these.
SELECT_MS_MAX = 3_000
SOCKET_MS_MAX = 8_000
PREFIX = "monitoring_"
VERSIONS_MAX = 500
DELETES_MAX = 1_000


class MongoServing:
    """Collections monitoring_batch, monitoring_sample and monitoring_report of the journal's base.

    Samples are inserted before the batch that counts: when only one of the two was written, the
    event is delivered again and finds the samples there.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._database = urlsplit(address).path.strip("/")
        if not self._database:
            raise InvalidInputError(
                "BASALT_JOURNAL names no database.",
                which="BASALT_JOURNAL",
                next_step="Use mongodb://HOST/DATABASE.",
            )
        self._opening = asyncio.Lock()
        self._client: AsyncIOMotorClient[dict[str, Any]] | None = None
        self._batches: Any = None
        self._samples: Any = None
        self._reports: Any = None

    async def add(self, batch: PredictionsServed) -> bool:
        key = {"tenant": batch.tenant, "model": batch.model, "version": batch.version}
        until_us = batches.us(batch.until)
        async with self._answering():
            if await self._batches.find_one({"_id": batch.id}, {"_id": 1}):
                return False
            if batch.samples:
                await _insert_once(
                    self._samples,
                    {
                        "_id": batch.id,
                        **key,
                        "until_us": until_us,
                        "rows": batches.rows_of(batch.samples),
                        "content": batches.packed(batch.samples),
                    },
                )
            return await _insert_once(
                self._batches,
                {
                    "_id": batch.id,
                    **key,
                    "since_us": batches.us(batch.since),
                    "until_us": until_us,
                    "requests": batch.requests,
                    "rows": batch.rows,
                    # As text: a code might hold what a field's name may not.
                    "errors": orjson.dumps(batch.errors_by_code).decode(),
                    "latency": list(batch.latency_ms_counts),
                },
            )

    async def totals(
        self, tenant: str, model: str = "", since: datetime | None = None
    ) -> dict[Series, Totals]:
        query: dict[str, Any] = {"tenant": tenant}
        if model:
            query["model"] = model
        if since is not None:
            query["until_us"] = {"$gt": batches.us(since)}
        found: dict[Series, Totals] = {}
        async with self._answering():
            async for each in self._batches.find(query):
                series = Series(tenant, each["model"], each["version"])
                totals = found.setdefault(series, Totals())
                totals.requests += each["requests"]
                totals.rows += each["rows"]
                for code, count in orjson.loads(each["errors"]).items():
                    totals.add_errors(code, count)
                for bucket, count in enumerate(each["latency"]):
                    totals.latency_ms_counts[bucket] += count
                totals.cover(batches.at_us(each["since_us"]), batches.at_us(each["until_us"]))
        return found

    async def samples(
        self, series: Series, since: datetime | None, rows_max: int
    ) -> list[PredictionSample]:
        query: dict[str, Any] = _of(series)
        if since is not None:
            query["until_us"] = {"$gte": batches.us(since)}
        found: list[tuple[PredictionSample, ...]] = []
        rows = 0
        async with self._answering():
            async for each in self._samples.find(query).sort([("until_us", -1), ("_id", -1)]):
                found.append(batches.unpacked(each["content"]))
                rows += each["rows"]
                if rows >= rows_max:
                    break
        return batches.newest_first(found, since)

    async def put_report(self, tenant: str, report: DriftReport) -> None:
        series, at_us = Series(tenant, report.model, report.version), batches.us(report.at)
        document = {
            "_id": f"{tenant}/{report.model}/{report.version}/{at_us}",
            **_of(series),
            "at_us": at_us,
            "content": report.model_dump_json(),
        }
        async with self._answering():
            await _insert_once(self._reports, document)

    async def reports(self, tenant: str, model: str) -> list[DriftReport]:
        newest: dict[int, DriftReport] = {}
        async with self._answering():
            versions = await self._reports.distinct("version", {"tenant": tenant, "model": model})
            for version in sorted(versions)[-VERSIONS_MAX:]:
                query = _of(Series(tenant, model, version))
                async for each in self._reports.find(query).sort([("at_us", -1)]).limit(1):
                    newest[version] = DriftReport.model_validate_json(each["content"])
        return [newest[version] for version in sorted(newest)]

    async def prune(self, now: datetime) -> None:
        oldest = batches.us(now - timedelta(microseconds=batches.BATCH_US_MAX))
        async with self._answering():
            await self._batches.delete_many({"until_us": {"$lt": oldest}})
            await self._samples.delete_many({"until_us": {"$lt": oldest}})
            over = await self._batches.count_documents({}) - batches.BATCHES_MAX
            if over > 0:
                await _delete_first(self._batches, [("until_us", 1)], min(over, DELETES_MAX))
            for series in await self._series(self._samples):
                await self._prune_samples(series)
            for series in await self._series(self._reports):
                await self._prune_reports(series)

    async def _series(self, collection: Any) -> list[Series]:
        fields = {"tenant": "$tenant", "model": "$model", "version": "$version"}
        groups = collection.aggregate([{"$group": {"_id": fields}}])
        return [Series(**each["_id"]) async for each in groups]

    async def _prune_samples(self, series: Series) -> None:
        rows = 0
        async for each in self._samples.find(_of(series), {"rows": 1, "until_us": 1}).sort(
            [("until_us", -1), ("_id", -1)]
        ):
            if rows >= batches.SAMPLE_ROWS_MAX:
                query = {**_of(series), "until_us": {"$lte": each["until_us"]}}
                await self._samples.delete_many(query)
                return
            rows += each["rows"]

    async def _prune_reports(self, series: Series) -> None:
        kept = self._reports.find(_of(series), {"at_us": 1}).sort([("at_us", -1)])
        async for each in kept.skip(batches.REPORTS_MAX).limit(1):
            query = {**_of(series), "at_us": {"$lte": each["at_us"]}}
            await self._reports.delete_many(query)

    async def ping(self) -> None:
        async with self._answering():
            await self._batches.find_one({"_id": ""}, {"_id": 1})

    async def close(self) -> None:
        if self._client is not None:
            self._client.close()

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Around every use: opened before, and what the server refuses is one of our errors."""
        try:
            await self._open()
            yield
        except (PyMongoError, OSError) as error:
            reason = str(error).partition(", Timeout:")[0]
            raise DependencyError(
                f"The serving store does not answer: {reason}",
                which="serving store",
                next_step="Start its MongoDB, or set BASALT_JOURNAL to where it is.",
            ) from error

    async def _open(self) -> None:
        async with self._opening:
            if self._batches is not None:
                return
            self._client = self._client or AsyncIOMotorClient(
                self._address,
                appname="basalt-monitoring-serving",
                serverSelectionTimeoutMS=SELECT_MS_MAX,
                socketTimeoutMS=SOCKET_MS_MAX,
                # A repeated insert is known by its id, on any server.
                retryWrites=False,
            )
            base = self._client[self._database].with_options(
                write_concern=WriteConcern(w="majority", j=True)
            )
            batch, sample, report = (base[PREFIX + name] for name in ("batch", "sample", "report"))
            await _index(batch, "series", ["tenant", "model", "until_us"])
            await _index(batch, "age", ["until_us"])
            await _index(sample, "series", ["tenant", "model", "version", "until_us"])
            await _index(report, "series", ["tenant", "model", "version", "at_us"])
            self._batches, self._samples, self._reports = batch, sample, report


async def _index(collection: Any, name: str, fields: list[str]) -> None:
    # One at a time, and only what is missing: FerretDB falls over otherwise.
    if name not in await collection.index_information():
        await collection.create_index([(field, 1) for field in fields], name=name)


def _of(series: Series) -> dict[str, Any]:
    return {"tenant": series.tenant, "model": series.model, "version": series.version}


async def _insert_once(collection: Any, document: dict[str, Any]) -> bool:
    try:
        await collection.insert_one(document)
    except DuplicateKeyError:
        return False
    return True


async def _delete_first(collection: Any, order: list[tuple[str, int]], count: int) -> None:
    ids = [each["_id"] async for each in collection.find({}, {"_id": 1}).sort(order).limit(count)]
    await collection.delete_many({"_id": {"$in": ids}})
