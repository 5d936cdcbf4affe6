"""Batches of predictions and what surrounds them, for the tests of monitoring."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from libs.common.clock import SystemClock
from libs.common.events import (
    DeployedVariant,
    DeploymentChanged,
    PredictionSample,
    PredictionsServed,
)
from libs.common.journal import Journal
from libs.common.stores.sqlite import SqliteJournal
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.drift import DriftLimits, Reference
from services.monitoring.core.serving import Series
from services.monitoring.core.watch import DriftWatch
from services.monitoring.outbound.prometheus import PrometheusMeters
from services.monitoring.ports import ReferenceSource, ServingStore

NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
FEATURES = ("radius", "texture", "area")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def rows(seed: int, count: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Rows of three features; `shift` standard deviations are added to the first."""
    table = np.random.default_rng(seed).normal(size=(count, len(FEATURES)))
    table[:, 0] += shift
    return table


def reference(seed: int = 0, count: int = 400) -> Reference:
    table = rows(seed, count)
    columns = {name: table[:, index] for index, name in enumerate(FEATURES)}
    prediction = np.random.default_rng(seed + 1).uniform(size=count).round(2)
    return Reference(
        features=FEATURES,
        columns={**columns, "prediction": prediction},
        output_width=3,
        answer_width=2,
        classes=2,
        whole=False,
    )


def batch(
    id_: str,
    table: NDArray[np.float64] | None = None,
    *,
    at: datetime = NOON,
    tenant: str = "acme",
    model: str = "cancer",
    version: int = 1,
    requests: int = 10,
    errors: dict[str, int] | None = None,
    latency: Sequence[int] = (),
    traceparent: str = "",
) -> PredictionsServed:
    return PredictionsServed(
        id=id_,
        tenant=tenant,
        at=at,
        model=model,
        version=version,
        since=at - timedelta(seconds=1),
        until=at,
        requests=requests,
        rows=requests,
        errors_by_code=errors or {},
        latency_ms_counts=tuple(latency),
        samples=() if table is None else (sample(table, at, traceparent),),
    )


def sample(table: NDArray[np.float64], at: datetime, traceparent: str = "") -> PredictionSample:
    answers = np.random.default_rng(len(table)).uniform(size=len(table))
    return PredictionSample(
        at=at,
        features=tuple(tuple(row) for row in table.tolist()),
        outputs=tuple((float(answer > 0.5), 1 - answer, answer) for answer in answers.tolist()),
        traceparent=traceparent,
    )


def deployed(
    revision: int, weights: dict[int, int], at: datetime = NOON, model: str = "cancer"
) -> DeploymentChanged:
    return DeploymentChanged(
        id=f"acme/deployment/{model}/{revision}",
        tenant="acme",
        at=at,
        model=model,
        revision=revision,
        action="deploy",
        variants=tuple(
            DeployedVariant(version=version, manifest_sha256="0" * 64, weight=weight)
            for version, weight in weights.items()
        ),
        by="ada",
    )


class KnownReferences:
    """The references of a registry that the test writes down. It may be out of reach."""

    def __init__(self, known: dict[int, Reference]) -> None:
        self.known = known
        self.failure: Exception | None = None

    async def reference(self, series: Series) -> Reference:
        if self.failure is not None:
            raise self.failure
        return self.known[series.version]


def open_journal(folder: Path) -> Journal:
    return Journal(SqliteJournal(folder / "monitoring.db"), SystemClock())


def monitor(
    journal: Journal,
    serving: ServingStore,
    references: ReferenceSource,
    limits: DriftLimits | None = None,
) -> DriftWatch:
    return DriftWatch(
        journal=journal,
        serving=serving,
        references=references,
        meters=PrometheusMeters(),
        alerts=Alerts(journal, SystemClock()),
        clock=SystemClock(),
        limits=limits or DriftLimits(),
    )
