"""Served batches, samples and drift reports in MongoDB. Only inserts, range reads and deletes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import orjson
from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from libs.common.events import PredictionSample, PredictionsServed
from libs.common.stores.mongo_collections import MongoCollections
from services.monitoring.core.drift import DriftReport
from services.monitoring.core.serving import Series, Totals
from services.monitoring.outbound import batches

BATCH, SAMPLE, REPORT = "monitoring_batch", "monitoring_sample", "monitoring_report"
VERSIONS_MAX = 500
DELETES_MAX = 1_000


def _index(name: str, *fields: str) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], name=name)


INDEXES = {
    BATCH: [_index("series", "tenant", "model", "until_us"), _index("age", "until_us")],
    SAMPLE: [_index("series", "tenant", "model", "version", "until_us")],
    REPORT: [_index("series", "tenant", "model", "version", "at_us")],
}


class MongoServing:
    """Collections monitoring_batch, monitoring_sample and monitoring_report of the journal's base.

    Samples are inserted before the batch that counts: when only one of the two was written, the
    event is delivered again and finds the samples there.
    """

    def __init__(self, address: str) -> None:
        self._collections = MongoCollections(
            address, "serving store", INDEXES, appname="basalt-monitoring-serving"
        )
        self._reached = self._collections.reached

    @property
    def _batches(self) -> Any:
        return self._collections[BATCH]

    @property
    def _samples(self) -> Any:
        return self._collections[SAMPLE]

    @property
    def _reports(self) -> Any:
        return self._collections[REPORT]

    async def add(self, batch: PredictionsServed) -> bool:
        key = {"tenant": batch.tenant, "model": batch.model, "version": batch.version}
        until_us = batches.us(batch.until)
        async with self._reached():
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
        async with self._reached():
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
        async with self._reached():
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
        async with self._reached():
            await _insert_once(self._reports, document)

    async def reports(self, tenant: str, model: str) -> list[DriftReport]:
        newest: dict[int, DriftReport] = {}
        async with self._reached():
            versions = await self._reports.distinct("version", {"tenant": tenant, "model": model})
            for version in sorted(versions)[-VERSIONS_MAX:]:
                query = _of(Series(tenant, model, version))
                async for each in self._reports.find(query).sort([("at_us", -1)]).limit(1):
                    newest[version] = DriftReport.model_validate_json(each["content"])
        return [newest[version] for version in sorted(newest)]

    async def prune(self, now: datetime) -> None:
        oldest = batches.us(now - timedelta(microseconds=batches.BATCH_US_MAX))
        async with self._reached():
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
        async with self._reached():
            await self._batches.find_one({"_id": ""}, {"_id": 1})

    async def close(self) -> None:
        await self._collections.close()


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
