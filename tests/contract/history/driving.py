"""Drives a platform through all that leaves a trace: the hospital's story, and what it lacks.

What stands here is what samples of a release hold. Whoever adds a kind of aggregate, a type of
entry or an event adds the call that makes one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from uuid import uuid4

import tritonclient.grpc.aio
from aiokafka import AIOKafkaProducer
from rich.console import Console

import basalt.errors
from apps.hospital import measurements
from apps.hospital.chapters import drift, records, release, serving, training
from apps.hospital.people import TENANT, introduced, one_time_password
from apps.hospital.stage import Stage
from apps.hospital.story import MODEL, Story
from basalt.aio import AsyncClient
from basalt.pb.basalt.v1 import (
    common_pb2,
    gateway_pb2,
    inference_pb2,
    ingest_pb2,
    monitoring_pb2,
    security_pb2,
    trainer_pb2,
)
from libs.common import flow
from libs.common.clock import SystemClock
from libs.common.events import TrainingCompleted
from libs.common.identity import PLATFORM
from libs.common.kafka import KafkaAccess
from tests.support.eventually import eventually
from tests.support.laptop import Laptop
from tools.servers import Triton

# Whoever reads the samples logs in with it. It opened a platform that was removed at once.
READER, READER_PASSWORD = "olga", "a password of samples alone"
READER_ROLES = ("administrator", "engineer", "reviewer", "auditor")
READER_ROLE_ASKED = "operator"
WITHIN_S = 120.0
# Of an audit log; a subtree of so many is kept.
RECORDS_WANTED = 256
CALLS_BETWEEN = 40
# What no consumer can read says that it comes from there, and is not sampled.
UNREADABLE = "/samples/unreadable"
SMALL = "beds"
SMALL_CONTRACT = """\
name: beds
description: Beds of a ward.
key: [bed]
label: taken
columns:
  - {name: bed, type: string, required: true, role: key}
  - {name: width, type: float, required: true, minimum: 0, unit: m, role: feature}
  - {name: taken, type: string, required: true, allowed: ["yes", "no"], role: label}
"""
DOOMED = """\
name: doomed
data: {dataset: beds, label: taken, features: all, holdout_fraction: 0.5, seed: 7}
steps:
  - {train: logistic_regression, as: baseline}
  - {select: accuracy}
  - {export: onnx}
model: {name: doomed, task: classification}
gates: {accuracy_min: 0.9, accuracy_drop_max: 0.03, latency_ms_p99_max: 50}
triggers: []
limits: {time_s: 300, memory_bytes: 3221225472, threads: 1}
"""

T = TypeVar("T")


async def drive(platform: Laptop) -> None:
    root, one_time = await _take_over(platform)
    note = platform.home.root / "samples-login.txt"
    await asyncio.to_thread(note.write_text, f"one-time password: {one_time}\n")
    async with introduced(platform.door, note) as people:
        stage = Stage(Console(width=120, force_terminal=False))
        story = Story(stage, people, platform.door, platform.kafka, *measurements.load())
        for chapter in (records, training, release, serving, drift):
            await chapter.tell(story)
        rest = Rest(platform, story, root)
        for step in (
            rest.people,
            rest.beds,
            rest.dead_letters,
            rest.jobs,
            rest.models,
            rest.foreign_model,
            rest.drift_ends,
            rest.keys,
        ):
            print(f"· {step.__name__}", flush=True)
            await step()
    await root.close()


async def _take_over(platform: Laptop) -> tuple[AsyncClient, str]:
    """A second administrator of the platform, the reader; and a new password of the first one."""
    one_time = one_time_password(platform.home.first_login)
    async with await log_in(platform.door, PLATFORM, "admin", one_time) as admin:
        made = await admin.call(
            admin.identity.CreateUser,
            security_pb2.CreateUserRequest(name=READER, roles=["administrator"]),
        )
    reader = await log_in(platform.door, PLATFORM, READER, made.one_time_password)
    again = await reader.call(
        reader.identity.ResetPassword, security_pb2.ResetPasswordRequest(name="admin")
    )
    return reader, again.one_time_password


async def log_in(door: str, tenant: str, name: str, one_time: str) -> AsyncClient:
    """Somebody who chose the password of the samples."""
    async with AsyncClient(door, token="") as stranger:
        await stranger.call(
            stranger.identity.ChangePassword,
            security_pb2.ChangePasswordRequest(
                tenant=tenant, name=name, password=one_time, new_password=READER_PASSWORD
            ),
        )
    return await again(door, tenant, name)


async def again(door: str, tenant: str, name: str) -> AsyncClient:
    """Somebody who chose that password before."""
    async with AsyncClient(door, token="") as stranger:
        answer = await stranger.call(
            stranger.identity.Login,
            security_pb2.LoginRequest(tenant=tenant, name=name, password=READER_PASSWORD),
        )
    return AsyncClient(door, token=answer.token)


@dataclass
class Rest:
    platform: Laptop
    story: Story
    root: AsyncClient

    async def people(self) -> None:
        """Users made, changed, disabled; passwords set anew; logins renewed and ended; limits."""
        boss = self.story.people.administrator
        made = await boss.call(
            boss.identity.CreateUser,
            security_pb2.CreateUserRequest(name=READER, roles=READER_ROLES),
        )
        async with await log_in(self.platform.door, TENANT, READER, made.one_time_password) as it:
            await it.call(it.identity.RenewToken, security_pb2.RenewTokenRequest())
            await self._ask_for_a_role(it)
        async with await again(self.platform.door, TENANT, READER) as it:
            await self._checkpoint(it)
            await it.call(it.identity.Logout, security_pb2.LogoutRequest())
        for name in ("tom", "tina"):
            await boss.call(
                boss.identity.CreateUser,
                security_pb2.CreateUserRequest(name=name, roles=["operator"]),
            )
        await boss.call(
            boss.identity.SetUser,
            security_pb2.SetUserRequest(name="tom", roles=["auditor"], disabled=True),
        )
        await boss.call(boss.identity.ResetPassword, security_pb2.ResetPasswordRequest(name="tina"))
        wanted = gateway_pb2.Limits(tenant=TENANT, requests_per_second=900, sample_fraction=1.0)
        await self.root.call(
            self.root.gateway.PutLimits, gateway_pb2.PutLimitsRequest(limits=wanted)
        )

    async def _ask_for_a_role(self, reader: AsyncClient) -> None:
        """For oneself: a second administrator confirms it, and tokens of before hold no more."""
        roles = (*READER_ROLES, READER_ROLE_ASKED)
        await reader.call(
            reader.identity.SetUser, security_pb2.SetUserRequest(name=READER, roles=roles)
        )
        boss = self.story.people.administrator
        await boss.call(
            boss.identity.ConfirmRoles, security_pb2.ConfirmRolesRequest(name=READER, roles=roles)
        )

    async def _checkpoint(self, reader: AsyncClient) -> None:
        """Of an audit log that is long enough for a kept subtree."""
        request = security_pb2.GetAuditCheckpointRequest()
        while (await reader.call(reader.audit.GetAuditCheckpoint, request)).size < RECORDS_WANTED:
            for _ in range(CALLS_BETWEEN):
                await reader.call(reader.identity.RenewToken, security_pb2.RenewTokenRequest())

    async def beds(self) -> None:
        """A small source whose objects are in the samples: uploads, mending, replaying, sealing."""
        engineer = self.story.people.engineer
        await engineer.call(
            engineer.ingest.PutSource,
            ingest_pb2.PutSourceRequest(name=SMALL, contract_yaml=SMALL_CONTRACT),
        )
        await engineer.send(engineer.ingest.UploadRecords, _records("first", _beds(40)))
        await engineer.send(
            engineer.ingest.UploadFile, _file("second", b"bed,width,taken\nb,x,no\n")
        )
        await self._upstream({"bed": "z", "width": "wide"})
        held = await self._until(lambda: self._held(3))
        for each, width in zip(held, (1.0, 1.1, 1.2), strict=False):
            body = {"bed": f"mended-{width}", "width": width, "taken": "yes"}
            await engineer.call(
                engineer.ingest.MendQuarantined,
                ingest_pb2.MendQuarantinedRequest(id=each.id, body=json.dumps(body).encode()),
            )
        for each in held[:2]:
            await engineer.call(
                engineer.ingest.ReplayQuarantined,
                ingest_pb2.ReplayQuarantinedRequest(id=each.id),
            )
        await self._seal(SMALL)
        await self._many_beds()
        await engineer.send(engineer.ingest.UploadRecords, _records("third", _beds(60)))
        await self._seal(SMALL)

    async def _many_beds(self) -> None:
        """Records in quarantine that are mended, sent in and discarded together."""
        ingest = self.story.people.engineer.ingest
        wrong = [
            json.dumps({"bed": f"w{number}", "width": "wide", "taken": "yes"}).encode()
            for number in range(6)
        ]
        await self.story.people.engineer.send(ingest.UploadRecords, _records("fourth", wrong))
        of = ingest_pb2.QuarantineFilter(source=SMALL, upload="fourth")
        request = ingest_pb2.ListQuarantineRequest(filter=of)
        held = (await self.story.people.engineer.call(ingest.ListQuarantine, request)).records
        width = ingest_pb2.RowChange(set=ingest_pb2.ColumnValue(column="width", value_json="2"))
        some = [each.id for each in held[:3]]
        for method, asked in (
            (
                ingest.BatchChangeQuarantined,
                ingest_pb2.BatchChangeQuarantinedRequest(ids=some, changes=[width]),
            ),
            (
                ingest.BatchReplayQuarantined,
                ingest_pb2.BatchReplayQuarantinedRequest(ids=some[:2]),
            ),
            (
                ingest.BatchDiscardQuarantined,
                ingest_pb2.BatchDiscardQuarantinedRequest(ids=[held[5].id]),
            ),
        ):
            told = [each async for each in self.story.people.engineer.stream(method, asked)]
            assert told[-1].progress.done == len(asked.ids), told

    async def _upstream(self, record: dict[str, Any]) -> None:
        """A system publishes with a key, which is made, rotated and revoked."""
        engineer = self.story.people.engineer
        made = await engineer.call(
            engineer.ingest.CreateSourceKey, ingest_pb2.CreateSourceKeyRequest(source=SMALL)
        )
        rotated = await engineer.call(
            engineer.ingest.RotateSourceKey,
            ingest_pb2.RotateSourceKeyRequest(source=SMALL, id=made.key.id),
        )
        access = KafkaAccess(self.platform.kafka, rotated.key.user, rotated.password)
        await _publish(access, flow.upstream_topic(TENANT, SMALL), record)
        await engineer.call(
            engineer.ingest.RevokeSourceKey,
            ingest_pb2.RevokeSourceKeyRequest(source=SMALL, id=made.key.id),
        )

    async def _held(self, count: int) -> list[ingest_pb2.QuarantinedRecord]:
        engineer = self.story.people.engineer
        request = ingest_pb2.ListQuarantineRequest(source=SMALL)
        records = list((await engineer.call(engineer.ingest.ListQuarantine, request)).records)
        assert len(records) >= count, records
        return records

    async def _seal(self, dataset: str) -> None:
        engineer = self.story.people.engineer
        await engineer.call(
            engineer.ingest.SealDataset,
            ingest_pb2.SealDatasetRequest(dataset=dataset, idempotency_key=uuid4().hex),
        )

    async def dead_letters(self) -> None:
        """What a consumer cannot read is buried, and one of two discarded; what it can read and
        not carry out is replayed, and buried again.
        """
        topic = flow.DATASET_VERSIONED
        access = self.platform.kafka_of(topic.producer)
        for number in range(2):
            await _publish(access, topic.name, {"tenant": TENANT, "dataset": number}, number)
        lost = TrainingCompleted(
            id="lost",
            tenant=TENANT,
            at=SystemClock().now(),
            job="01LOST",
            pipeline=MODEL,
            pipeline_revision=1,
            model=MODEL,
            dataset=SMALL,
            dataset_version=1,
            dataset_manifest_sha256="0" * 64,
            manifest_sha256="0" * 64,
            author="ann",
            trace_id="",
        )
        topic = flow.TRAINING_COMPLETED
        access = self.platform.kafka_of(topic.producer)
        await _publish(access, topic.name, lost.model_dump(mode="json"), 2)
        operator = self.story.people.operator

        async def buried() -> list[monitoring_pb2.DeadLetter]:
            answer = await operator.call(
                operator.monitoring.ListDeadLetters, monitoring_pb2.ListDeadLettersRequest()
            )
            assert len(answer.letters) >= 3, answer
            return list(answer.letters)

        letters = await self._until(buried)
        hopeless = next(each for each in letters if each.hopeless)
        await operator.call(
            operator.monitoring.DiscardDeadLetter,
            monitoring_pb2.DiscardDeadLetterRequest(id=hopeless.id),
        )
        readable = next(each for each in letters if not each.hopeless)
        await operator.call(
            operator.monitoring.ReplayDeadLetter,
            monitoring_pb2.ReplayDeadLetterRequest(id=readable.id),
        )

    async def jobs(self) -> None:
        """One that fails, one cancelled, one whose worker goes away and that goes on."""
        engineer = self.story.people.engineer
        put = engineer.trainer.PutPipeline
        await engineer.call(put, trainer_pb2.PutPipelineRequest(definition_yaml=DOOMED))
        await self._ended(await self._run("doomed", parameters={}))
        slow = {"mlp.epochs": "400"}
        cancelled = await self._run(MODEL, parameters=slow)
        await self._until(lambda: self._claimed(cancelled))
        await engineer.call(
            engineer.trainer.CancelJob,
            trainer_pb2.CancelJobRequest(id=cancelled.id, reason="another is better"),
        )
        released = await self._run(MODEL, parameters=slow)
        await self._until(lambda: self._claimed(released))
        os.kill(self.platform.process("trainer").pid, signal.SIGTERM)
        await self._ended(released)

    async def _run(self, pipeline: str, parameters: dict[str, str]) -> trainer_pb2.Job:
        engineer = self.story.people.engineer
        request = trainer_pb2.RunPipelineRequest(
            pipeline=pipeline, idempotency_key=uuid4().hex, parameters=parameters
        )
        return (await engineer.call(engineer.trainer.RunPipeline, request)).job

    async def _job(self, job: trainer_pb2.Job) -> trainer_pb2.Job:
        engineer = self.story.people.engineer
        request = trainer_pb2.GetJobRequest(id=job.id)
        return (await engineer.call(engineer.trainer.GetJob, request)).job

    async def _claimed(self, job: trainer_pb2.Job) -> trainer_pb2.Job:
        found = await self._job(job)
        assert found.state == trainer_pb2.JOB_STATE_RUNNING, found
        return found

    async def _ended(self, job: trainer_pb2.Job) -> trainer_pb2.Job:
        async def over() -> trainer_pb2.Job:
            found = await self._job(job)
            assert found.state not in (
                trainer_pb2.JOB_STATE_QUEUED,
                trainer_pb2.JOB_STATE_RUNNING,
            ), found
            return found

        return await self._until(over)

    async def models(self) -> None:
        """An alias moved twice, a version that a reviewer rejects, a model undeployed and back."""
        operator, reviewer = self.story.people.operator, self.story.people.reviewer
        for version in (1, 2):
            await operator.call(
                operator.models.SetAlias,
                inference_pb2.SetAliasRequest(model=MODEL, alias="champion", version=version),
            )
        await self.story.gated(4)
        await reviewer.call(
            reviewer.models.RejectModelVersion,
            inference_pb2.RejectModelVersionRequest(model=MODEL, version=4, comment="too slow"),
        )
        await operator.call(
            operator.deployments.Undeploy,
            inference_pb2.UndeployRequest(model=MODEL, reason="the ward moves"),
            timeout_s=60,
        )
        await self.story.deploy(1, 100, "the ward is back")

    async def foreign_model(self) -> None:
        """Somebody who reaches Triton loads a model of their own, and people are told."""
        triton = cast("Triton", self.platform.process("triton"))
        config = {"backend": "python", "input": [], "output": []}
        foreign = b"class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
        async with tritonclient.grpc.aio.InferenceServerClient(triton.grpc_address) as client:
            await client.load_model(
                "strange", config=json.dumps(config), files={"file:1/model.py": foreign}
            )

        async def told() -> bool:
            answer = await self.root.call(
                self.root.monitoring.ListAlerts, monitoring_pb2.ListAlertsRequest()
            )
            return any(alert.kind == "model.foreign" for alert in answer.alerts)

        await eventually(told, within_s=WITHIN_S)

    async def drift_ends(self) -> None:
        """Measurements as before the recalibration, until people are told that it is over."""
        auditor = self.story.people.auditor
        everything = monitoring_pb2.ListAlertsRequest(page=common_pb2.PageRequest(size=100))

        async def told() -> bool:
            await self.story.predict_each(self.story.held_out)
            alerts = (await auditor.call(auditor.monitoring.ListAlerts, everything)).alerts
            assert "drift.recovered" in [alert.kind for alert in alerts], alerts
            return True

        await self._until(told)

    async def keys(self) -> None:
        """An API key made and revoked, and the platform's keys rotated; last, since tokens end."""
        boss = self.story.people.administrator
        made = await boss.call(
            boss.identity.CreateApiKey,
            security_pb2.CreateApiKeyRequest(name="night", roles=["application"], days=2),
        )
        await boss.call(
            boss.identity.RevokeApiKey, security_pb2.RevokeApiKeyRequest(id=made.key.id)
        )
        await self.root.call(self.root.identity.RotateKeys, security_pb2.RotateKeysRequest())

    async def _until(self, probe: Callable[[], Awaitable[T]]) -> T:
        async def patient() -> T:
            try:
                return await probe()
            except basalt.errors.BasaltError as error:
                raise AssertionError(str(error)) from error

        return await eventually(patient, within_s=WITHIN_S)


async def _publish(access: KafkaAccess, topic: str, body: dict[str, Any], number: int = 0) -> None:
    headers = {"ce_specversion": "1.0", "ce_id": f"sample-{number}", "ce_source": UNREADABLE}
    headers |= {"ce_type": "sample", "content-type": "application/json"}
    async with AIOKafkaProducer(**access.for_aiokafka()) as producer:
        await producer.send_and_wait(
            topic,
            json.dumps(body).encode(),
            key=b"hospital/beds",
            headers=[(name, value.encode()) for name, value in headers.items()],
        )


def _beds(count: int) -> list[bytes]:
    """One of them has no width that can be read: all are empty, so nothing can be learnt."""
    beds = [{"bed": f"bed-{n}", "width": 0.9 + n / 100, "taken": "no"} for n in range(count)]
    return [json.dumps(bed).encode() for bed in beds] + [b'{"bed": "odd", "width": -1}']


async def _records(key: str, records: list[bytes]) -> AsyncIterator[Any]:
    request = ingest_pb2.UploadRecordsRequest
    yield request(source=SMALL, idempotency_key=key)
    yield request(records=records)
    yield request(last=True)


async def _file(key: str, content: bytes) -> AsyncIterator[Any]:
    request = ingest_pb2.UploadFileRequest
    yield request(source=SMALL, idempotency_key=key, format=ingest_pb2.FILE_FORMAT_CSV)
    yield request(part=content)
    yield request(last=True)
