"""The facts that travel on Kafka, in the past tense. `flow.py` says who tells them to whom."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)


class Said(BaseModel):
    """A part of an event. A number that is none, or infinite, is said as "NaN" or "Infinity"."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


def _with_gaps(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Rows in which null is no number: so earlier releases wrote what is none."""
    try:
        return read(value)
    except ValidationError:
        if not isinstance(value, list):
            raise
        return read([[math.nan if each is None else each for each in row] for row in _lists(value)])


def _lists(value: list[Any]) -> list[list[Any]]:
    return [row if isinstance(row, list) else [row] for row in value]


Rows = Annotated[tuple[tuple[float, ...], ...], WrapValidator(_with_gaps)]


class Event(Said):
    """What every fact says. `id` is the idempotency key of whatever it causes."""

    id: str
    tenant: str
    at: datetime


class DatasetVersioned(Event):
    dataset: str
    version: int
    manifest_sha256: str
    row_count: int


class TrainingCompleted(Event):
    """A candidate is ready; `inference` reads its files from `trainer` and registers it."""

    job: str
    pipeline: str
    pipeline_revision: int
    model: str
    dataset: str
    dataset_version: int
    dataset_manifest_sha256: str
    manifest_sha256: str
    author: str
    trace_id: str


class TrainingFailed(Event):
    job: str
    pipeline: str
    failure: str


class ModelGated(Event):
    model: str
    version: int
    passed: bool
    refusals: tuple[str, ...] = ()


class ModelSigned(Event):
    model: str
    version: int
    manifest_sha256: str
    approved_by: str
    key_id: str


class ForeignModelFound(Event):
    """Triton held something that `inference` had not loaded, and it was taken out.

    `name` is what it answered to; `tenant` is the platform's own, unless the name is one of theirs.
    """

    name: str
    what: str


class DeployedVariant(Said):
    version: int
    manifest_sha256: str
    weight: int


class DeploymentChanged(Event):
    model: str
    revision: int
    action: Literal["deploy", "canary", "promote", "rollback", "undeploy"]
    variants: tuple[DeployedVariant, ...]
    by: str


class PredictionSample(Said):
    """Rows of one request: `features` and `outputs` are [row][column], in the model's order."""

    at: datetime
    features: Rows
    outputs: Rows
    traceparent: str = ""


class PredictionsServed(Event):
    """What one gateway served of one model version in a span of time."""

    model: str
    version: int
    since: datetime
    until: datetime
    requests: int
    rows: int
    errors_by_code: dict[str, int] = {}
    # Counts by `telemetry.LATENCY_MS_BOUNDS`; the last one holds what is above every bound.
    latency_ms_counts: tuple[int, ...] = ()
    samples: tuple[PredictionSample, ...] = ()
    samples_dropped: int = 0


# Kolmogorov and Smirnov's, the population stability index, and that of how many values are missing.
Statistic = Literal["ks", "psi", "missing"]


class DriftedFeature(Said):
    feature: str
    statistic: Statistic
    value: float
    limit: float


class DriftDetected(Event):
    model: str
    version: int
    features: tuple[DriftedFeature, ...]
    live_rows: int


class AlertRaised(Event):
    severity: Literal["info", "warning", "critical"]
    kind: str
    subject: str
    message: str


class LetterReplayed(Event):
    """Its consumer takes a dead letter again, from the place in its topic's dead letters.

    `body_sha256` is the letter's that is meant: another may lie there after Kafka lost its tail.
    Events of before this was told have none.
    """

    topic: str
    consumer: str
    partition: int
    offset: int
    body_sha256: str = ""


class AccessChanged(Event):
    """Keys, revocations, tenants or limits changed: whoever caches them reads them again."""

    access_version: int
