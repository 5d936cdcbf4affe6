"""Drift is told once for each time it begins, whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from libs.common import flow
from libs.common.errors import DependencyError, NotFoundError
from libs.common.events import DriftDetected
from libs.common.journal import Journal
from services.monitoring.core.serving import Series
from services.monitoring.core.watch import Episode
from services.monitoring.outbound.sqlite_serving import SqliteServing
from tests.support.served import (
    FEATURES,
    NOON,
    TRACEPARENT,
    KnownReferences,
    batch,
    deployed,
    monitor,
    open_journal,
    reference,
    rows,
)
from tests.support.tracing import Spans

VERSION_1 = Series("acme", "cancer", 1)
DRIFT, ALERTS = "acme/drift/cancer", "acme/alerts/log"


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = open_journal(tmp_path)
    yield opened
    await opened.store.close()


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[SqliteServing]:
    store = SqliteServing(tmp_path / "serving.db")
    yield store
    await store.close()


@pytest.fixture
def references() -> KnownReferences:
    return KnownReferences({1: reference(), 2: reference()})


async def raised(journal: Journal) -> list[DriftDetected]:
    return [
        DriftDetected.model_validate_json(outgoing.payload)
        for entry in await journal.history(DRIFT)
        for outgoing in entry.outbox
        if outgoing.topic == flow.DRIFT_DETECTED.name
    ]


async def test_a_drift_is_raised_once_with_its_features(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 150, shift=2.0), traceparent=TRACEPARENT))

    for _ in range(5):
        await watch.compare(VERSION_1)

    (event,) = await raised(journal)
    assert {each.feature for each in event.features} == {FEATURES[0]}
    assert {each.statistic for each in event.features} == {"ks", "psi"}
    assert event.live_rows == 150
    (alert,) = await journal.history(ALERTS)
    assert alert.state["kind"] == "drift.detected"
    assert "radius (PSI" in alert.state["message"]
    assert alert.outbox[0].topic == flow.ALERT_RAISED.name


async def test_the_event_continues_the_trace_of_a_prediction(
    journal: Journal, serving: SqliteServing, references: KnownReferences, spans: Spans
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 150, shift=2.0), traceparent=TRACEPARENT))

    await watch.compare(VERSION_1)

    trace_id = TRACEPARENT.split("-")[1]
    (drift,) = await journal.history(DRIFT)
    assert drift.outbox[0].traceparent.split("-")[1] == trace_id
    assert (await watch.newest("acme", "cancer")).episode == Episode(
        1, drift.outbox[0].event_id, trace_id, NOON.isoformat()
    )
    (alert,) = await journal.history(ALERTS)
    assert alert.state["trace_id"] == trace_id
    (span,) = spans.named("drift detected")
    assert (span.attributes or {})["basalt.tenant"] == "acme"


async def test_two_monitors_on_one_journal_raise_it_once(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watches = [monitor(journal, serving, references) for _ in range(2)]
    await watches[0].deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 150, shift=2.0)))

    await asyncio.gather(*(watch.compare(VERSION_1) for watch in watches * 5))

    assert len(await raised(journal)) == 1
    assert len(await journal.history(ALERTS)) == 1


async def test_rows_like_the_training_rows_raise_nothing(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(8, 400)))

    report = await watch.compare(VERSION_1)

    assert report is not None
    assert not report.drifted
    assert len(report.comparisons) == 8
    assert await journal.latest(DRIFT) is None


async def test_too_few_rows_raise_nothing_and_say_so(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 99, shift=9.0)))

    report = await watch.compare(VERSION_1)

    assert report is not None
    assert report.problem == "99 live rows of the 100 that a comparison needs."
    assert await raised(journal) == []


async def test_rows_from_before_the_deployment_are_not_the_versions_own(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 300, shift=2.0)))
    await watch.deployed(deployed(2, {2: 100}, NOON + timedelta(minutes=1)))
    await watch.deployed(deployed(3, {1: 100}, NOON + timedelta(minutes=2)))

    report = await watch.compare(VERSION_1)

    assert report is not None
    assert report.live_rows == 0


async def test_a_canary_leaves_the_beginning_of_the_version_in_service(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 150, shift=2.0), at=NOON + timedelta(seconds=1)))
    await watch.compare(VERSION_1)

    await watch.deployed(deployed(2, {1: 80, 2: 20}, NOON + timedelta(minutes=1)))
    await watch.compare(VERSION_1)

    assert len(await raised(journal)) == 1


async def test_deployed_again_a_version_may_drift_again(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    for revision, version in ((1, 1), (2, 2), (3, 1)):
        at = NOON + timedelta(minutes=revision)
        await watch.deployed(deployed(revision, {version: 100}, at))
        seen = batch(f"{revision}", rows(revision, 150, 2.0), at=at, version=version)
        await serving.add(seen)
        await watch.compare(Series("acme", "cancer", version))

    assert [event.version for event in await raised(journal)] == [1, 2, 1]


async def test_a_version_out_of_service_is_not_compared(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {2: 100}))
    await serving.add(batch("a", rows(7, 150, shift=2.0)))

    assert await watch.compare(VERSION_1) is None


async def test_a_late_deployment_does_not_replace_a_newer_one(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(2, {2: 100}))
    await watch.deployed(deployed(1, {1: 100}))
    await watch.deployed(deployed(2, {2: 100}))

    entry = await journal.latest("acme/watch/cancer")
    assert entry is not None
    assert (entry.version, entry.state["revision"]) == (1, 2)


async def test_recovered_it_may_be_raised_again(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    for minute, shift in enumerate((2.0, 0.0, 2.0)):
        at = NOON + timedelta(minutes=minute)
        await serving.add(batch(f"{minute}", rows(20, 1_000, shift), at=at))
        await watch.compare(VERSION_1)

    assert len(await raised(journal)) == 2
    kinds = [entry.state["kind"] for entry in await journal.history(ALERTS)]
    assert kinds == ["drift.detected", "drift.recovered", "drift.detected"]


async def test_an_alert_that_a_crash_swallowed_comes_with_the_next_look(
    journal: Journal, serving: SqliteServing, references: KnownReferences, tmp_path: Path
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 150, shift=2.0)))
    elsewhere = open_journal(tmp_path / "elsewhere")
    await elsewhere.store.close()
    dying = monitor(journal, serving, references)
    dying._alerts = type(dying._alerts)(elsewhere, dying._clock)
    with pytest.raises(DependencyError):
        await dying.compare(VERSION_1)

    await watch.compare(VERSION_1)

    assert len(await raised(journal)) == 1
    assert len(await journal.history(ALERTS)) == 1


async def test_what_could_not_be_compared_is_compared_later(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 150, shift=2.0)))
    references.failure = DependencyError("inference cannot be reached.", which="inference")
    with pytest.raises(DependencyError):
        await watch.compare_changed()

    references.failure = None
    await watch.compare_changed()

    assert len(await raised(journal)) == 1
    assert await watch.compare_changed() == 0


async def test_after_a_restart_waiting_rows_are_compared(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    await monitor(journal, serving, references).deployed(deployed(1, {1: 100}))
    await serving.add(batch("a", rows(7, 150, shift=2.0)))

    await monitor(journal, serving, references).compare_changed()

    assert len(await raised(journal)) == 1


async def test_the_report_of_a_model_is_of_the_version_that_matters(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 20, 2: 80}))
    await serving.add(batch("a", rows(7, 150)))
    await serving.add(batch("b", rows(8, 150), version=2))
    await watch.compare_changed()
    assert (await watch.newest("acme", "cancer")).report.version == 2

    await serving.add(batch("c", rows(9, 400, 2.0), at=NOON + timedelta(seconds=5)))
    await watch.compare(VERSION_1)

    answer = await watch.newest("acme", "cancer")
    assert answer.report.version == 1
    assert answer.episode is not None
    assert answer.episode.event_id == (await raised(journal))[0].id
    assert (await watch.newest("acme", "cancer", 2)).episode is None


async def test_a_model_of_another_tenant_is_unknown(
    journal: Journal, serving: SqliteServing, references: KnownReferences
) -> None:
    watch = monitor(journal, serving, references)
    await watch.deployed(deployed(1, {1: 100}))
    await watch.compare(VERSION_1)

    with pytest.raises(NotFoundError, match="model cancer"):
        await watch.newest("umbrella", "cancer")
