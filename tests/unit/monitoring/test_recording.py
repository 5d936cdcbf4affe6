"""Batches are counted once, and what goes wrong in serving is said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libs.common.clock import SystemClock
from libs.common.errors import InvalidInputError
from libs.common.journal import Journal
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.recording import Recording
from services.monitoring.core.serving import BUCKETS
from services.monitoring.outbound.prometheus import SERIES_MAX, PrometheusMeters
from services.monitoring.outbound.sqlite_serving import SqliteServing
from tests.support.served import KnownReferences, batch, monitor, open_journal, reference

FAST = (0, 0, 10, *(0,) * (BUCKETS - 3))
SLOW = (*(0,) * (BUCKETS - 2), 200, 0)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = open_journal(tmp_path)
    yield opened
    await opened.store.close()


@pytest.fixture
def meters() -> PrometheusMeters:
    return PrometheusMeters()


@pytest.fixture
async def recording(
    tmp_path: Path, journal: Journal, meters: PrometheusMeters
) -> AsyncIterator[Recording]:
    store = SqliteServing(tmp_path / "serving.db")
    clock = SystemClock()
    watch = monitor(journal, store, KnownReferences({1: reference()}))
    yield Recording(store, meters, watch, Alerts(journal, clock), clock)
    await store.close()


def samples(meters: PrometheusMeters) -> dict[tuple[str, str, str], float]:
    """By name, model and upper bound or code."""
    shown: dict[tuple[str, str, str], float] = {}
    for family in text_string_to_metric_families(meters.exposition().decode()):
        for sample in family.samples:
            labels = sample.labels
            if "model" in labels:
                which = labels.get("le", labels.get("code", ""))
                shown[sample.name, labels["model"], which] = sample.value
    return shown


async def test_a_batch_delivered_twice_is_counted_once(
    recording: Recording, meters: PrometheusMeters
) -> None:
    for id_ in ("a", "a", "b"):
        await recording.take(batch(id_, errors={"INVALID_ARGUMENT": 1}, latency=FAST))

    (seen,) = await recording.figures("acme", "cancer", 0)
    assert (seen.requests, seen.errors_by_code) == (20, {"INVALID_ARGUMENT": 2})
    shown = samples(meters)
    assert shown["basalt_inference_requests_total", "cancer", ""] == 20
    assert shown["basalt_inference_errors_total", "cancer", "INVALID_ARGUMENT"] == 2
    assert shown["basalt_inference_latency_seconds_bucket", "cancer", "0.0005"] == 0
    assert shown["basalt_inference_latency_seconds_bucket", "cancer", "0.001"] == 20
    assert shown["basalt_inference_latency_seconds_bucket", "cancer", "+Inf"] == 20
    assert shown["basalt_inference_latency_seconds_count", "cancer", ""] == 20


async def test_faults_and_lateness_are_alerted_once(recording: Recording, journal: Journal) -> None:
    now = SystemClock().now()
    for number in range(5):
        at = now + timedelta(milliseconds=number)
        errors = {"UNAVAILABLE": 10, "INVALID_ARGUMENT": 100}
        await recording.take(batch(f"{number}", at=at, requests=110, errors=errors, latency=SLOW))

    told = {entry.state["kind"] for entry in await journal.history("acme/alerts/log")}
    assert told == {"serving.faults", "serving.slow"}


async def test_callers_mistakes_are_no_alert(recording: Recording, journal: Journal) -> None:
    mistakes = {"INVALID_ARGUMENT": 500, "UNAUTHENTICATED": 200}
    await recording.take(batch("a", at=SystemClock().now(), requests=1_000, errors=mistakes))

    assert await journal.latest("acme/alerts/log") is None


async def test_windows_are_bounded(recording: Recording) -> None:
    for window_s in (-1, 10_000_000):
        with pytest.raises(InvalidInputError, match="seconds"):
            await recording.figures("acme", "", window_s)


def test_series_of_the_exposition_are_bounded(meters: PrometheusMeters) -> None:
    for number in range(SERIES_MAX + 10):
        meters.served(batch("x", model=f"m{number}", requests=1))

    shown = [key for key in samples(meters) if key[0] == "basalt_inference_requests_total"]
    assert len(shown) == SERIES_MAX + 1
    assert samples(meters)["basalt_inference_requests_total", "other", ""] == 10
