"""Decides which jobs exist: by request, by a new dataset version, by drift.

A job that an event causes is named <pipeline>-v<dataset version>, so a pipeline is trained once on
a version, whichever event comes first and however often.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from pydantic import BaseModel, ConfigDict

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import InvalidInputError
from libs.common.events import DatasetVersioned, DriftDetected
from libs.common.journal import Change, Journal, aggregate
from libs.common.stores.ports import Entry
from services.trainer.core import jobs
from services.trainer.core.jobs import Job, job_of
from services.trainer.core.pipeline import with_parameters
from services.trainer.core.pipelines import Pipelines, pipeline_of
from services.trainer.core.queue import JobQueue
from services.trainer.ports import Datasets, DatasetVersion

RUN_KIND = "run"
RETRAINING_KIND = "retraining"
SHORT_ID_CHARACTERS = 10
KEY_CHARACTERS_MAX = 256
PARAMETERS_MAX = 100
PARAMETER_CHARACTERS_MAX = 1_000
# Jobs in these states leave their dataset version untrained.
FRUITLESS = frozenset({"failed", "cancelled"})

log = structlog.get_logger(__name__)


class Retraining(BaseModel):
    """What came of the latest drift (an event's id) of a version of a pipeline's model."""

    model_config = ConfigDict(frozen=True)

    drift: str
    version: int
    at: datetime
    model: str
    outcome: str


@dataclass(frozen=True, slots=True)
class RunRequest:
    """`dataset_version` 0 is the latest; an empty `dataset` the definition's."""

    pipeline: str
    dataset: str = ""
    dataset_version: int = 0
    idempotency_key: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)

    def require_within_limits(self) -> None:
        """Raises InvalidInputError for what the journal should not have to keep."""
        longest = max((len(value) for value in self.parameters.values()), default=0)
        for which, size, most in (
            ("idempotency_key", len(self.idempotency_key), KEY_CHARACTERS_MAX),
            ("parameters", len(self.parameters), PARAMETERS_MAX),
            ("parameters", longest, PARAMETER_CHARACTERS_MAX),
        ):
            if size > most:
                raise InvalidInputError(
                    f"{which} is too large: {size}, where {most} is the most.",
                    which=which,
                    next_step="Put what is large into the pipeline's definition.",
                )


@dataclass(frozen=True, slots=True)
class Queueing:
    journal: Journal
    clock: Clock
    pipelines: Pipelines
    datasets: Datasets
    queue: JobQueue

    async def dataset_versioned(self, event: DatasetVersioned) -> None:
        version = DatasetVersion(event.dataset, event.version, event.manifest_sha256)
        for pipeline in await self.pipelines.triggered(
            event.tenant, "dataset_versioned", dataset=event.dataset
        ):
            await self._queue_once(pipeline, version, "dataset_versioned", event.id)

    async def drift_detected(self, event: DriftDetected) -> None:
        """Seals what has come since, then trains on it; without new rows it says so and rests."""
        for pipeline in await self.pipelines.triggered(
            event.tenant, "drift_detected", model=event.model
        ):
            version = await self.datasets.seal(pipeline_of(pipeline).dataset, event.id)
            earlier = await self._trained_by(pipeline, version)
            if earlier is None:
                await self._queue_once(pipeline, version, "drift_detected", event.id)
            await self._record(pipeline, event, version, earlier)

    async def drift_answer(self, pipeline: Entry) -> str:
        """What came of the latest drift of the pipeline's model; "" without one."""
        name = f"{pipeline.tenant}/{RETRAINING_KIND}/{pipeline.name}"
        entry = await self.journal.latest(name)
        return Retraining.model_validate(entry.state).outcome if entry is not None else ""

    async def run(self, tenant: str, request: RunRequest, by: str, answerable: str = "") -> Entry:
        """Queues a job at somebody's request; the same idempotency key answers the same job.

        `answerable` says who they are where `by` alone does not: a key's id.
        Raises NotFoundError for the pipeline or dataset, InvalidInputError for a parameter or a
        column that the dataset lacks, LimitError where too many jobs wait.
        """
        request.require_within_limits()
        pipeline = await self.pipelines.get(tenant, request.pipeline)
        key = request.idempotency_key or self.clock.new_id()
        short_id = hashlib.sha256(f"{request.pipeline}\n{key}".encode()).hexdigest()
        run = f"{request.pipeline}-{short_id[:SHORT_ID_CHARACTERS]}"

        async def decide(latest: Entry | None) -> Change | None:
            if latest is not None:
                return None
            self.queue.require_room(tenant)
            job = await self._requested(pipeline, request, run, by)
            responsible = _each_once(*job.responsible, answerable or by)
            job = job.model_copy(update={"responsible": responsible})
            return Change("RunRequested", job.model_dump(mode="json"))

        # What the request came to is settled first: "the latest version" may be another one soon.
        settled = await self.journal.decide(aggregate(tenant, RUN_KIND, run), key, by, decide)
        job = Job.model_validate(settled.state)

        async def queue(latest: Entry | None) -> Change | None:
            return None if latest is not None else jobs.change("JobQueued", job)

        return await self.journal.decide(aggregate(tenant, jobs.KIND, job.id), key, by, queue)

    async def _requested(self, pipeline: Entry, request: RunRequest, run: str, by: str) -> Job:
        state = pipeline_of(pipeline)
        definition = await self.pipelines.definition(pipeline.tenant, state.name, pipeline.version)
        data = with_parameters(definition, request.parameters).data
        version = await self.datasets.version(
            request.dataset or state.dataset, request.dataset_version
        )
        data.require_types(version.columns, version.dataset)
        short_id = run.removeprefix(f"{state.name}-")
        job = await self._job(
            pipeline, version, f"{state.name}-v{version.version}-{short_id}", "request", by
        )
        return job.model_copy(update={"parameters": dict(request.parameters)})

    async def _queue_once(
        self, pipeline: Entry, version: DatasetVersion, trigger: str, cause: str
    ) -> Entry:
        state = pipeline_of(pipeline)
        name = f"{state.name}-v{version.version}"

        async def decide(latest: Entry | None) -> Change | None:
            if latest is not None:
                return None
            job = await self._job(pipeline, version, name, trigger, state.owner)
            return jobs.change("JobQueued", job)

        return await self.journal.decide(
            aggregate(pipeline.tenant, jobs.KIND, name), cause, state.owner, decide
        )

    async def _job(
        self, pipeline: Entry, version: DatasetVersion, name: str, trigger: str, author: str
    ) -> Job:
        state = pipeline_of(pipeline)
        return Job(
            id=name,
            pipeline=state.name,
            pipeline_revision=pipeline.version,
            dataset=version.dataset,
            dataset_version=version.version,
            dataset_manifest_sha256=version.manifest_sha256,
            model=state.model,
            trigger=trigger,
            author=author,
            responsible=await self.pipelines.writers(pipeline),
            queued_at=self.clock.now(),
            traceparent=telemetry.traceparent(),
            trace_id=telemetry.trace_id(),
        )

    async def _trained_by(self, pipeline: Entry, version: DatasetVersion) -> Job | None:
        """The job that trained this pipeline on this version, or is about to."""
        name = pipeline_of(pipeline).name
        for entry in await self.journal.heads(jobs.KIND, pipeline.tenant):
            job = job_of(entry)
            if (
                (job.pipeline, job.dataset) == (name, version.dataset)
                and job.dataset_version == version.version
                and job.state not in FRUITLESS
            ):
                return job
        return None

    async def _record(
        self, pipeline: Entry, event: DriftDetected, version: DatasetVersion, earlier: Job | None
    ) -> None:
        state = pipeline_of(pipeline)
        if earlier is None or earlier.trigger == "drift_detected":
            outcome = f"Version {version.version} of {version.dataset} is trained on."
        elif version.created:
            outcome = f"The job {earlier.id} already trains on version {version.version}."
        else:
            outcome = (
                f"Nothing was trained: {version.dataset} has no new rows since version"
                f" {version.version}, which the job {earlier.id} trained on."
            )
        said = Retraining(
            drift=event.id, version=event.version, at=event.at, model=event.model, outcome=outcome
        )

        async def decide(_: Entry | None) -> Change | None:
            return Change("DriftAnswered", said.model_dump(mode="json"))

        await self.journal.decide(
            aggregate(pipeline.tenant, RETRAINING_KIND, state.name),
            event.id,
            "service:trainer",
            decide,
        )
        log.info("drift_answered", pipeline=state.name, model=event.model, outcome=outcome)


def _each_once(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
