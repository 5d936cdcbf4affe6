"""The whole service beside the real security and ingest, on real Kafka, called with real tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from libs.common import flow
from libs.common.events import DriftDetected, TrainingCompleted
from libs.common.pb.basalt.v1 import health_pb2, ingest_pb2
from libs.common.pb.basalt.v1 import trainer_pb2 as pb
from libs.common.pb.basalt.v1.health_pb2_grpc import HealthServiceStub
from libs.common.pb.basalt.v1.ingest_pb2_grpc import IngestServiceStub
from libs.common.pb.basalt.v1.trainer_pb2_grpc import TrainerServiceStub
from services.ingest.app import build as build_ingest
from services.ingest.settings import Settings as IngestSettings
from services.trainer.app import build as build_trainer
from services.trainer.settings import Settings as TrainerSettings
from tests.support.eventually import eventually
from tests.support.platform import bearer, running, running_security
from tests.support.training import PIPELINE, patients
from tools.servers import Kafka

TRACE = "5bf92f3577b34da6a3ce929d0e0e4736"


@dataclass
class Services:
    trainer: TrainerServiceStub
    ingest: IngestServiceStub
    channel: grpc.aio.Channel
    kafka: str
    ann: dict[str, Any]  # An engineer of acme.
    eve: dict[str, Any]  # An engineer of another tenant.
    inference: dict[str, Any]
    monitoring: dict[str, Any]
    name: str  # Of this test's dataset, pipeline and model alike.

    @property
    def definition(self) -> str:
        named = PIPELINE.replace("patients", self.name).replace("name: tumours", "name: NAME")
        return named.replace("name: tumour}", f"name: {self.name}}}").replace("NAME", self.name)

    async def put_source(self) -> None:
        table = patients()
        columns = [f"  - {{name: {n}, type: float}}" for n in table.columns[1:-1]]
        contract = "\n".join(
            [
                f"name: {self.name}",
                "key: [key]",
                "label: diagnosis",
                "columns:",
                "  - {name: key, type: string, role: key}",
                *columns,
                "  - {name: diagnosis, type: string}",
            ]
        )
        request = ingest_pb2.PutSourceRequest(name=self.name, contract_yaml=contract)
        await self.ingest.PutSource(request, **self.ann)

    async def upload(self, first: int, count: int) -> None:
        records = [json.dumps(row).encode() for row in patients(500)[first:].head(count).to_dicts()]

        async def parts() -> AsyncIterator[ingest_pb2.UploadRecordsRequest]:
            yield ingest_pb2.UploadRecordsRequest(source=self.name, idempotency_key=str(first))
            yield ingest_pb2.UploadRecordsRequest(records=records, last=True)

        answer = await self.ingest.UploadRecords(parts(), **self.ann)
        assert answer.summary.accepted == count

    async def seal(self) -> ingest_pb2.DatasetVersion:
        metadata = (*self.ann["metadata"], ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"))
        request = ingest_pb2.SealDatasetRequest(dataset=self.name)
        return (await self.ingest.SealDataset(request, metadata=metadata)).version

    async def put_pipeline(self) -> pb.Pipeline:
        request = pb.PutPipelineRequest(definition_yaml=self.definition)
        return (await self.trainer.PutPipeline(request, **self.ann)).pipeline

    async def job(self, job: str) -> pb.Job | None:
        try:
            return (await self.trainer.GetJob(pb.GetJobRequest(id=job), **self.ann)).job
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return None

    async def drift(self) -> None:
        event = DriftDetected(
            id=uuid4().hex,
            tenant="acme",
            at=datetime.now(UTC),
            model=self.name,
            version=1,
            features=(),
            live_rows=500,
        )
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka)
        async with producer:
            await producer.send_and_wait(
                flow.DRIFT_DETECTED.name, event.model_dump_json().encode(), key=b"acme"
            )


@pytest.fixture
async def services(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Services]:
    async with running_security(tmp_path, kafka.bootstrap) as security:
        trainer_settings = TrainerSettings(
            **security.settings("trainer"), work=tmp_path / "work", beat_s=0.2, poll_s=0.2
        )
        ann = bearer(await security.user("acme", "ann", ["engineer"]))
        eve = bearer(await security.user("umbrella", "eve", ["engineer"]))
        monitoring = bearer(await security.service_token("monitoring"))
        inference = bearer(await security.service_token("inference", "acme"))
        async with (
            running(build_ingest(IngestSettings(**security.settings("ingest")))),
            running(build_trainer(trainer_settings)),
            grpc.aio.insecure_channel(security.peers["trainer"]) as channel,
            grpc.aio.insecure_channel(security.peers["ingest"]) as to_ingest,
        ):
            made = Services(
                trainer=TrainerServiceStub(channel),
                ingest=IngestServiceStub(to_ingest),
                channel=channel,
                kafka=kafka.bootstrap,
                ann=ann,
                eve=eve,
                inference=inference,
                monitoring=monitoring,
                name=f"p-{uuid4().hex[:10]}",
            )
            await eventually(lambda: _know_keys(made))
            yield made


async def _know_keys(made: Services) -> bool:
    calls = (
        made.trainer.ListPipelines(pb.ListPipelinesRequest(), **made.ann),
        made.ingest.ListSources(ingest_pb2.ListSourcesRequest(), **made.ann),
    )
    return [await call.code() for call in calls] == [grpc.StatusCode.OK] * 2


async def test_a_version_becomes_a_candidate_and_drift_the_next_job(services: Services) -> None:
    await services.put_source()
    pipeline = await services.put_pipeline()
    assert (pipeline.revision, pipeline.changed.by) == (1, "ann")
    await services.upload(0, 300)
    version = await services.seal()
    job = await eventually(lambda: services.job(f"{services.name}-v1"))
    assert job is not None
    assert (job.trigger, job.queued_by) == ("dataset_versioned", "ann")
    watched = services.trainer.WatchJob(pb.WatchJobRequest(id=job.id), **services.ann)
    states = [answer.job async for answer in watched]
    ended = states[-1]
    assert ended.state == pb.JOB_STATE_COMPLETED, ended.failure
    assert len(ended.trace_id) == 32

    files = await candidate(services, job.id)
    assert sha256(files["manifest.json"]).hexdigest() == ended.manifest_sha256
    manifest = json.loads(files["manifest.json"])
    assert manifest["lineage"]["dataset_manifest_sha256"] == version.manifest_sha256
    assert manifest["author"] == "ann"
    event = await completed(services, job.id)
    assert event.manifest_sha256 == ended.manifest_sha256
    assert event.trace_id == ended.trace_id
    follow = services.trainer.FollowJobLog(pb.FollowJobLogRequest(id=job.id), **services.ann)
    lines = [answer.line async for answer in follow]
    assert any("Kept by log_loss" in line for line in lines)

    await services.drift()
    await eventually(lambda: _drift_answered(services, "no new rows since version 1"))
    await services.upload(300, 100)
    await services.drift()
    second = await eventually(lambda: services.job(f"{services.name}-v2"))
    assert second is not None
    await eventually(lambda: _drift_answered(services, "Version 2"))
    cancel = pb.CancelJobRequest(id=second.id, reason="enough")
    cancelled = (await services.trainer.CancelJob(cancel, **services.ann)).job
    assert cancelled.state == pb.JOB_STATE_CANCELLED
    listed = await services.trainer.ListJobs(
        pb.ListJobsRequest(pipeline=services.name), **services.ann
    )
    assert [each.id for each in listed.jobs] == [job.id, second.id]


async def _drift_answered(services: Services, said: str) -> bool:
    request = pb.GetPipelineRequest(name=services.name)
    answer = await services.trainer.GetPipeline(request, **services.ann)
    return said in answer.pipeline.drift_answer


async def candidate(services: Services, job: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    name = ""
    request = pb.ReadCandidateRequest(job=job)
    async for answer in services.trainer.ReadCandidate(request, **services.inference):
        name = answer.file.name if answer.HasField("file") else name
        files[name] = files.get(name, b"") + answer.part
    assert next(iter(files)) == "manifest.json"
    return files


async def completed(services: Services, job: str) -> TrainingCompleted:
    """The event of a job, from Kafka; there is exactly one by the time the next would come."""
    consumer = AIOKafkaConsumer(
        flow.TRAINING_COMPLETED.name,
        bootstrap_servers=services.kafka,
        auto_offset_reset="earliest",
        group_id=None,
    )
    async with consumer:
        async for record in consumer:
            event = TrainingCompleted.model_validate_json(record.value or b"")
            if event.job == job:
                return event
    raise AssertionError("The topic has ended.")


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() is code
    return failure.value.details() or ""


async def test_bad_input_and_foreign_names_are_refused_with_what_to_do(services: Services) -> None:
    stub, ann, eve = services.trainer, services.ann, services.eve
    assert "No source feeds the dataset" in (await services.put_pipeline()).warning
    broken = services.definition.replace("epochs: 30", "epochs: 0")
    put = stub.PutPipeline(pb.PutPipelineRequest(definition_yaml=broken), **ann)
    assert "epochs" in await refused(put, grpc.StatusCode.INVALID_ARGUMENT)
    run = pb.RunPipelineRequest(pipeline=services.name)
    assert services.name in await refused(
        stub.RunPipeline(run, **ann), grpc.StatusCode.NOT_FOUND
    )  # The dataset is not there yet.
    await refused(stub.RunPipeline(run, **eve), grpc.StatusCode.NOT_FOUND)
    get = pb.GetPipelineRequest(name=services.name)
    await refused(stub.GetPipeline(get, **eve), grpc.StatusCode.NOT_FOUND)
    for call in (
        stub.GetJob(pb.GetJobRequest(id="nothing"), **ann),
        stub.CancelJob(pb.CancelJobRequest(id="../nothing"), **ann),
        stub.WatchJob(pb.WatchJobRequest(id="nothing"), **ann).read(),
        stub.FollowJobLog(pb.FollowJobLogRequest(id="nothing"), **ann).read(),
        stub.ReadCandidate(pb.ReadCandidateRequest(job="nothing"), **services.inference).read(),
    ):
        assert "no job" in await refused(call, grpc.StatusCode.NOT_FOUND)
    page = pb.ListJobsRequest()
    page.page.size = 501
    await refused(stub.ListJobs(page, **ann), grpc.StatusCode.INVALID_ARGUMENT)
    assert not (await stub.ListPipelines(pb.ListPipelinesRequest(), **eve)).pipelines
    await services.put_source()
    mistyped = services.definition.replace("label: diagnosis", "label: diagnoses")
    put = stub.PutPipeline(pb.PutPipelineRequest(definition_yaml=mistyped), **ann)
    assert "no column 'diagnoses'" in await refused(put, grpc.StatusCode.INVALID_ARGUMENT)
    assert (await services.put_pipeline()).warning == ""


async def test_a_run_is_queued_once_for_its_key(services: Services) -> None:
    await services.put_source()
    await services.upload(0, 60)
    await services.seal()
    await services.put_pipeline()
    request = pb.RunPipelineRequest(
        pipeline=services.name, idempotency_key="once", parameters={"mlp.epochs": "90000"}
    )
    first, again = [
        (await services.trainer.RunPipeline(request, **services.ann)).job for _ in range(2)
    ]
    assert first.id == again.id
    assert first.id.startswith(f"{services.name}-v1-")
    await services.trainer.CancelJob(pb.CancelJobRequest(id=first.id), **services.ann)


async def test_its_health_names_what_it_depends_on(services: Services) -> None:
    request = health_pb2.GetServiceHealthRequest()
    answer = await HealthServiceStub(services.channel).GetServiceHealth(
        request, **services.monitoring
    )
    names = {each.component for each in answer.components}
    assert {"trainer", "kafka", "journal", "objects", "work"} <= names
    assert {each.state for each in answer.components} == {health_pb2.HEALTH_STATE_SERVING}
