"""What every store of served batches promises, on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import TypeAdapter

from libs.common.errors import BasaltError, DependencyError, InvalidInputError
from services.monitoring.app import open_serving
from services.monitoring.core.drift import Comparison, DriftReport
from services.monitoring.core.serving import BUCKETS, Series
from services.monitoring.outbound import batches
from services.monitoring.outbound.mongo_serving import MongoServing
from services.monitoring.ports import ServingStore
from tests.support.served import NOON, TRACEPARENT, batch, rows

OpenStore = Callable[[], ServingStore]
VERSION_1 = Series("acme", "cancer", 1)
LATENCY = tuple(range(BUCKETS))


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.real)])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens the same store again and again, as replicas and restarts do."""
    address = f"sqlite:{tmp_path}"
    if request.param == "mongo":
        address = f"{request.getfixturevalue('ferretdb').url}serving_{uuid4().hex}"
    opened: list[ServingStore] = []

    def open_one() -> ServingStore:
        opened.append(open_serving(address))
        return opened[-1]

    yield open_one
    for each in opened:
        await each.close()


@pytest.fixture
def store(open_store: OpenStore) -> ServingStore:
    return open_store()


def report(version: int, minutes: int, value: float) -> DriftReport:
    comparison = Comparison(
        feature="radius",
        statistic="ks",
        value=value,
        limit=0.15,
        p_value=0.5,
        drifted=False,
        reference_mean=0.0,
        live_mean=0.1,
    )
    return DriftReport(
        model="cancer",
        version=version,
        at=NOON + timedelta(minutes=minutes),
        live_rows=150,
        reference_rows=400,
        comparisons=(comparison,),
    )


async def test_a_batch_counts_once_for_everybody(open_store: OpenStore) -> None:
    first, second = open_store(), open_store()
    told = batch("a", rows(0, 5), errors={"INTERNAL": 2, "a.b$": 1}, latency=LATENCY)

    added = await asyncio.gather(*(store.add(told) for store in (first, second) * 5))

    assert sum(added) == 1
    totals = (await second.totals("acme"))[VERSION_1]
    assert (totals.requests, totals.rows) == (10, 10)
    assert totals.errors_by_code == {"INTERNAL": 2, "a.b$": 1}
    assert totals.latency_ms_counts == list(LATENCY)
    assert (totals.since, totals.until) == (NOON - timedelta(seconds=1), NOON)
    assert len(await second.samples(VERSION_1, None, 100)) == 1


async def test_totals_are_by_version_within_tenant_model_and_window(store: ServingStore) -> None:
    await store.add(batch("a"))
    await store.add(batch("b", at=NOON + timedelta(minutes=5)))
    await store.add(batch("c", version=2))
    await store.add(batch("d", model="fraud"))
    await store.add(batch("e", tenant="umbrella"))

    everything = await store.totals("acme")
    assert {(each.model, each.version): sums.requests for each, sums in everything.items()} == {
        ("cancer", 1): 20,
        ("cancer", 2): 10,
        ("fraud", 1): 10,
    }
    assert set(await store.totals("acme", "fraud")) == {Series("acme", "fraud", 1)}
    recent = await store.totals("acme", "", NOON + timedelta(minutes=1))
    assert {each: sums.requests for each, sums in recent.items()} == {VERSION_1: 10}
    assert await store.totals("nobody") == {}


async def test_samples_are_the_newest_as_they_were(store: ServingStore) -> None:
    for minute in range(5):
        at = NOON + timedelta(minutes=minute)
        await store.add(batch(f"{minute}", rows(minute, 10), at=at, traceparent=TRACEPARENT))
    await store.add(batch("other", rows(9, 10), version=2))

    newest = await store.samples(VERSION_1, None, 25)

    assert [sample.at.minute for sample in newest] == [4, 3, 2]
    assert (
        newest[0]
        == batch("4", rows(4, 10), at=NOON + timedelta(minutes=4), traceparent=TRACEPARENT).samples[
            0
        ]
    )
    since = NOON + timedelta(minutes=3)
    assert [each.at.minute for each in await store.samples(VERSION_1, since, 100)] == [4, 3]


async def test_a_restart_keeps_everything(open_store: OpenStore) -> None:
    first = open_store()
    await first.add(batch("a", rows(0, 5)))
    await first.put_report("acme", report(1, 0, 0.1))
    await first.close()

    second = open_store()

    assert not await second.add(batch("a", rows(0, 5)))
    assert (await second.totals("acme"))[VERSION_1].requests == 10
    assert len(await second.samples(VERSION_1, None, 100)) == 1
    assert len(await second.reports("acme", "cancer")) == 1


async def test_reports_are_the_newest_of_each_version(store: ServingStore) -> None:
    for version, minutes, value in ((1, 0, 0.1), (1, 2, 0.3), (1, 1, 0.2), (2, 0, 0.4)):
        await store.put_report("acme", report(version, minutes, value))
    await store.put_report("acme", report(1, 2, 0.3))  # Two monitors in the same moment.

    found = await store.reports("acme", "cancer")

    reports = TypeAdapter(list[DriftReport])
    assert sorted(reports.dump_python(found), key=lambda each: each["version"]) == (
        reports.dump_python([report(1, 2, 0.3), report(2, 0, 0.4)])
    )
    assert await store.reports("umbrella", "cancer") == []


async def test_what_is_old_or_too_much_goes(
    store: ServingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SAMPLE_ROWS_MAX", 20)
    monkeypatch.setattr(batches, "REPORTS_MAX", 2)
    now = NOON + timedelta(days=2)
    await store.add(batch("old", rows(0, 10)))
    for minute in range(6):
        await store.add(batch(f"{minute}", rows(minute, 10), at=now - timedelta(minutes=minute)))
        await store.put_report("acme", report(1, minute, 0.1))

    for _ in range(2):
        await store.prune(now)

    assert (await store.totals("acme"))[VERSION_1].requests == 60
    assert len(await store.samples(VERSION_1, None, 1_000)) == 2
    newest = await store.reports("acme", "cancer")
    assert [each.at for each in newest] == [NOON + timedelta(minutes=5)]

    monkeypatch.setattr(batches, "BATCHES_MAX", 4)
    await store.prune(now)
    assert (await store.totals("acme"))[VERSION_1].requests == 40


async def test_it_answers_that_it_is_there(store: ServingStore) -> None:
    await store.ping()


async def test_a_closed_file_says_so(tmp_path: Path) -> None:
    store = open_serving(f"sqlite:{tmp_path}")
    await store.close()

    with pytest.raises(DependencyError) as raised:
        await store.add(batch("a"))
    assert raised.value.which == "serving store"


@pytest.mark.parametrize("address", ["mongodb://127.0.0.1:1", "mongodb://127.0.0.1:1/"])
def test_a_mongodb_address_without_a_database_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match="BASALT_JOURNAL"):
        MongoServing(address)


async def test_a_mongodb_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.stores.mongo_collections.SELECT_MS_MAX", 200)
    store = MongoServing("mongodb://127.0.0.1:1/basalt")

    with pytest.raises(BasaltError, match="serving store cannot be reached") as raised:
        await store.add(batch("a"))
    assert raised.value.retryable
    await store.close()
