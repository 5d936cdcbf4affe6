"""The facts that travel on Kafka, in the past tense. `flow.py` says who tells them to whom."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Event(BaseModel):
    """What every fact says. `id` is the idempotency key of whatever it causes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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


class DeployedVariant(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: int
    manifest_sha256: str
    weight: int


class DeploymentChanged(Event):
    model: str
    revision: int
    action: Literal["deploy", "canary", "promote", "rollback", "undeploy"]
    variants: tuple[DeployedVariant, ...]
    by: str


class PredictionSample(BaseModel):
    """Rows of one request: `features` and `outputs` are [row][column], in the model's order."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    features: tuple[tuple[float, ...], ...]
    outputs: tuple[tuple[float, ...], ...]
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


class DriftedFeature(BaseModel):
    model_config = ConfigDict(frozen=True)

    feature: str
    statistic: Literal["ks", "psi"]
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
