"""A job: one run of a pipeline on one dataset version. Each of its changes is a journal entry.

queued ──claimed──▶ running ──▶ completed | failed
  ▲                  │  │
  └────released──────┘  └─claimed again, by another worker, when the first fell silent
queued, running ──▶ cancelled
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from libs.common.errors import NotFoundError
from libs.common.events import Event, TrainingCompleted, TrainingFailed
from libs.common.journal import Change
from libs.common.stores.ports import Entry

KIND = "job"
FAILURE_CHARACTERS_MAX = 2_000

State = Literal["queued", "running", "completed", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"completed", "failed", "cancelled"})


# How the step of a job begins that waits for a dependency, which the step then names.
WAITING = "waiting for "


class Job(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str
    pipeline: str
    pipeline_revision: int
    dataset: str
    dataset_version: int
    dataset_manifest_sha256: str
    model: str
    # The fact that caused it, or "request".
    trigger: str
    # Who answers for the model; may not approve it (four eyes).
    author: str
    # The author, and everyone who wrote the pipeline: none of them may approve it. A person, or
    # "key:<name>/<id>". None at all: a job from before that was kept.
    responsible: tuple[str, ...] = ()
    parameters: dict[str, str] = {}
    state: State = "queued"
    # 0 to 1, and the name of the step it is in.
    progress: float = 0.0
    step: str = "queued"
    attempt: int = 0
    # Attempts that ended with their worker, while nothing outside kept it waiting.
    deaths: int = 0
    worker: str = ""
    metrics: dict[str, float] = {}
    failure: str = ""
    queued_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    # Seconds that training took in all attempts: what the time limit is about.
    elapsed_s: float = 0.0
    # File name → SHA-256 of what another worker needs to go on from here.
    checkpoints: dict[str, str] = {}
    traceparent: str = ""
    trace_id: str = ""
    manifest_sha256: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    # Transitions. Each answers the job as it is afterwards.

    def claimed(self, worker: str, now: datetime) -> Job:
        # Whoever runs it still has fallen silent. A worker that waits dies of something else.
        died = self.state == "running" and not self.step.startswith(WAITING)
        return self.model_copy(
            update={
                "state": "running",
                "step": "claimed",
                "worker": worker,
                "attempt": self.attempt + 1,
                "deaths": self.deaths + died,
                "started_at": self.started_at or now,
            }
        )

    def released(self) -> Job:
        return self.model_copy(update={"state": "queued", "step": "queued", "worker": ""})

    def completed(self, manifest_sha256: str, metrics: Mapping[str, float], now: datetime) -> Job:
        return self._ended("completed", now).model_copy(
            update={
                "progress": 1.0,
                "step": "completed",
                "metrics": dict(metrics),
                "manifest_sha256": manifest_sha256,
            }
        )

    def failed(self, failure: str, now: datetime) -> Job:
        return self._ended("failed", now).model_copy(
            update={"failure": failure[:FAILURE_CHARACTERS_MAX]}
        )

    def cancelled(self, reason: str, now: datetime) -> Job:
        return self._ended("cancelled", now).model_copy(update={"failure": reason})

    def _ended(self, state: State, now: datetime) -> Job:
        return self.model_copy(
            update={"state": state, "ended_at": now, "worker": "", "checkpoints": {}}
        )


def job_of(entry: Entry) -> Job:
    return Job.model_validate(entry.state)


def change(kind: str, job: Job, *events: Event) -> Change:
    return Change(kind, job.model_dump(mode="json"), events)


def training_completed(job: Job, event_id: str, tenant: str, at: datetime) -> TrainingCompleted:
    return TrainingCompleted(
        id=event_id,
        tenant=tenant,
        at=at,
        job=job.id,
        pipeline=job.pipeline,
        pipeline_revision=job.pipeline_revision,
        model=job.model,
        dataset=job.dataset,
        dataset_version=job.dataset_version,
        dataset_manifest_sha256=job.dataset_manifest_sha256,
        manifest_sha256=job.manifest_sha256,
        author=job.author,
        trace_id=job.trace_id,
    )


def training_failed(job: Job, event_id: str, tenant: str, at: datetime) -> TrainingFailed:
    return TrainingFailed(
        id=event_id,
        tenant=tenant,
        at=at,
        job=job.id,
        pipeline=job.pipeline,
        failure=job.failure,
    )


def unknown(job: str) -> NotFoundError:
    return NotFoundError(
        f"There is no job {job!r}.", which=job, next_step="`basalt train jobs` shows yours."
    )
