"""TrainerService: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.identity import caller
from libs.common.paging import page_size
from libs.common.pb.basalt.v1 import common_pb2
from libs.common.pb.basalt.v1 import trainer_pb2 as pb
from libs.common.pb.basalt.v1.trainer_pb2_grpc import TrainerServiceServicer
from libs.common.stores.ports import Entry
from services.trainer.core.jobs import Job, State, job_of
from services.trainer.core.oversight import Oversight
from services.trainer.core.pipelines import Pipelines, pipeline_of
from services.trainer.core.queueing import Queueing, RunRequest

STATES: dict[State, pb.JobState] = {
    "queued": pb.JOB_STATE_QUEUED,
    "running": pb.JOB_STATE_RUNNING,
    "completed": pb.JOB_STATE_COMPLETED,
    "failed": pb.JOB_STATE_FAILED,
    "cancelled": pb.JOB_STATE_CANCELLED,
}
STATE_OF: dict[pb.JobState, State] = {number: state for state, number in STATES.items()}


class TrainerServicer(TrainerServiceServicer):
    def __init__(self, pipelines: Pipelines, queueing: Queueing, oversight: Oversight) -> None:
        self._pipelines = pipelines
        self._queueing = queueing
        self._oversight = oversight

    async def PutPipeline(  # noqa: N802 - the name in the contract, as below.
        self, request: pb.PutPipelineRequest, context: Any
    ) -> pb.PutPipelineResponse:
        who = caller()
        entry, warning = await self._pipelines.put(
            who.tenant, request.definition_yaml, who.subject, who.answerable
        )
        return pb.PutPipelineResponse(pipeline=_pipeline(entry, warning=warning))

    async def GetPipeline(  # noqa: N802
        self, request: pb.GetPipelineRequest, context: Any
    ) -> pb.GetPipelineResponse:
        entry = await self._pipelines.get(caller().tenant, request.name)
        answer = await self._queueing.drift_answer(entry)
        return pb.GetPipelineResponse(pipeline=_pipeline(entry, drift_answer=answer))

    async def ListPipelines(  # noqa: N802
        self, request: pb.ListPipelinesRequest, context: Any
    ) -> pb.ListPipelinesResponse:
        size = page_size(request.page.size)
        entries = await self._pipelines.page(caller().tenant, request.page.token, size)
        return pb.ListPipelinesResponse(
            pipelines=[_pipeline(entry) for entry in entries],
            next_page_token=entries[-1].name if len(entries) == size else "",
        )

    async def RunPipeline(  # noqa: N802
        self, request: pb.RunPipelineRequest, context: Any
    ) -> pb.RunPipelineResponse:
        who = caller()
        wanted = RunRequest(
            pipeline=request.pipeline,
            dataset=request.dataset,
            dataset_version=request.dataset_version,
            idempotency_key=request.idempotency_key,
            parameters=dict(request.parameters),
        )
        entry = await self._queueing.run(who.tenant, wanted, who.subject, who.answerable)
        return pb.RunPipelineResponse(job=self._job(who.tenant, job_of(entry)))

    async def GetJob(  # noqa: N802
        self, request: pb.GetJobRequest, context: Any
    ) -> pb.GetJobResponse:
        tenant = caller().tenant
        entry = await self._oversight.entry(tenant, request.id)
        return pb.GetJobResponse(job=self._job(tenant, job_of(entry)))

    async def ListJobs(  # noqa: N802
        self, request: pb.ListJobsRequest, context: Any
    ) -> pb.ListJobsResponse:
        tenant = caller().tenant
        found, token = await self._oversight.page(
            tenant,
            request.pipeline,
            STATE_OF.get(request.state),
            request.page.token,
            page_size(request.page.size),
        )
        return pb.ListJobsResponse(
            jobs=[self._job(tenant, job) for job in found], next_page_token=token
        )

    async def CancelJob(  # noqa: N802
        self, request: pb.CancelJobRequest, context: Any
    ) -> pb.CancelJobResponse:
        who = caller()
        entry = await self._oversight.cancel(who.tenant, request.id, request.reason, who.subject)
        return pb.CancelJobResponse(job=self._job(who.tenant, job_of(entry)))

    async def WatchJob(  # noqa: N802
        self, request: pb.WatchJobRequest, context: Any
    ) -> AsyncIterator[pb.WatchJobResponse]:
        tenant = caller().tenant
        async for job in self._oversight.watch(tenant, request.id):
            yield pb.WatchJobResponse(job=self._job(tenant, job))

    async def FollowJobLog(  # noqa: N802
        self, request: pb.FollowJobLogRequest, context: Any
    ) -> AsyncIterator[pb.FollowJobLogResponse]:
        async for line in self._oversight.follow_log(caller().tenant, request.id):
            at = _timestamp(datetime.fromisoformat(line.at))
            yield pb.FollowJobLogResponse(at=at, line=line.text)

    async def ReadCandidate(  # noqa: N802
        self, request: pb.ReadCandidateRequest, context: Any
    ) -> AsyncIterator[pb.ReadCandidateResponse]:
        async for part in self._oversight.candidate(caller().tenant, request.job):
            answer = pb.ReadCandidateResponse(part=part.content)
            if part.file is not None:
                answer.file.name = part.file.name
                answer.file.sha256 = part.file.sha256
                answer.file.size_bytes = part.file.size_bytes
            yield answer

    def _job(self, tenant: str, job: Job) -> pb.Job:
        answer = _job(job)
        place = self._oversight.place(tenant, job)
        if place is not None:
            answer.queue_place, answer.queue_others = place.number, place.others
        return answer


def _pipeline(entry: Entry, *, drift_answer: str = "", warning: str = "") -> pb.Pipeline:
    state = pipeline_of(entry)
    changed = common_pb2.Stamp(at=_timestamp(entry.at), by=entry.by, cause=entry.cause)
    return pb.Pipeline(
        name=state.name,
        definition_yaml=state.definition_yaml,
        dataset=state.dataset,
        model=state.model,
        revision=entry.version,
        changed=changed,
        drift_answer=drift_answer,
        warning=warning,
    )


def _job(job: Job) -> pb.Job:
    answer = pb.Job(
        id=job.id,
        pipeline=job.pipeline,
        dataset=job.dataset,
        dataset_version=job.dataset_version,
        model=job.model,
        state=STATES[job.state],
        trigger=job.trigger,
        progress=job.progress,
        step=job.step,
        attempt=job.attempt,
        metrics=[
            common_pb2.Metric(name=name, value=value) for name, value in sorted(job.metrics.items())
        ],
        failure=job.failure,
        queued_by=job.author,
        queued_at=_timestamp(job.queued_at),
        trace_id=job.trace_id,
        manifest_sha256=job.manifest_sha256,
    )
    if job.started_at is not None:
        answer.started_at.CopyFrom(_timestamp(job.started_at))
    if job.ended_at is not None:
        answer.ended_at.CopyFrom(_timestamp(job.ended_at))
    return answer


def _timestamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
