"""The story in six chapters. Each takes what the services answer, and checks it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from apps.hospital import upstream
from apps.hospital.measurements import Patients
from apps.hospital.people import People
from apps.hospital.stage import Stage, StoryError
from basalt.aio import AsyncClient
from basalt.cli.models import serves
from basalt.pb.basalt.v1 import common_pb2, inference_pb2, ingest_pb2, trainer_pb2
from basalt.prediction import Prediction
from libs.common.kafka import KafkaAccess

T = TypeVar("T")
HERE = Path(__file__).parent
SOURCE = "patients"
SHUFFLED = "patients-shuffled"
MODEL = "tumour"
ACCURACY_MIN = 0.95
CANARY_WEIGHT = 20
CALLS_AT_ONCE = 8
TRAINING_S_MAX = 240.0
DRIFT_S_MAX = 90.0
SETTLE_S_MAX = 30.0
# After a change of weights, that many answers in a row by the right versions are no accident.
ANSWERS_THAT_CONVINCE = 8
JOURNEY_SPAN = "00f067aa0ba902b7"
TRACED_SERVICES = {"ingest", "trainer", "inference", "gateway", "triton"}


@dataclass
class Story:
    stage: Stage
    people: People
    door: str
    kafka: str
    patients: Patients
    held_out: Patients
    # Who signs Kafka's certificate, where it has one.
    kafka_ca: Path | None = None
    # What the hospital's system logs in to Kafka with, once it has a key for its source.
    upstream: KafkaAccess | None = None
    upstream_trace: str = ""
    # Records that ingest must have taken in, one way or another, since the beginning.
    records_sent: int = 0

    async def give_key(self) -> None:
        """As `basalt source key create` does: the password is shown this once."""
        engineer = self.people.engineer
        request = ingest_pb2.CreateSourceKeyRequest(source=SOURCE)
        answer = await engineer.call(engineer.ingest.CreateSourceKey, request)
        self.upstream = KafkaAccess(self.kafka, answer.key.user, answer.password, self.kafka_ca)

    async def publish(self, topic: str, messages: list[upstream.Message]) -> str:
        if self.upstream is None:
            raise StoryError("the hospital's system has no key for its source yet")
        access = self.upstream
        with self.stage.progress(f"publishing to {topic}", len(messages)) as moved:
            sent = iter(range(1, len(messages) + 1))
            trace_id = await upstream.publish(access, topic, messages, lambda: moved(next(sent)))
        engineer = self.people.engineer

        async def everything_arrived() -> bool | None:
            request = ingest_pb2.GetSourceRequest(name=SOURCE)
            source = (await engineer.call(engineer.ingest.GetSource, request)).source
            arrived = source.records_accepted + source.records_quarantined
            return True if arrived >= self.records_sent else None

        self.records_sent += len(messages)
        await self.stage.until(
            "ingest has committed them", everything_arrived, within_s=SETTLE_S_MAX
        )
        return trace_id

    async def seal(self) -> ingest_pb2.DatasetVersion:
        engineer = self.people.engineer
        request = ingest_pb2.SealDatasetRequest(dataset=SOURCE, idempotency_key=uuid4().hex)
        return (await engineer.call(engineer.ingest.SealDataset, request)).version

    async def job_for(self, *, dataset_version: int, dataset: str = SOURCE) -> trainer_pb2.Job:
        engineer = self.people.engineer

        async def queued() -> trainer_pb2.Job | None:
            request = trainer_pb2.ListJobsRequest(page=common_pb2.PageRequest(size=100))
            jobs = (await engineer.call(engineer.trainer.ListJobs, request)).jobs
            wanted = (dataset, dataset_version)
            return next((j for j in jobs if (j.dataset, j.dataset_version) == wanted), None)

        return await self.stage.until("a job is queued", queued, within_s=DRIFT_S_MAX)

    async def follow(self, job: trainer_pb2.Job) -> trainer_pb2.Job:
        with self.stage.progress(f"training {job.id}", 1.0) as moved:
            return await asyncio.wait_for(
                self.people.engineer.wait_for_job(job.id, on_progress=lambda j: moved(j.progress)),
                TRAINING_S_MAX,
            )

    async def gated(self, number: int) -> inference_pb2.ModelVersion:
        """The version once its gates have spoken."""
        reviewer = self.people.reviewer
        waiting = (inference_pb2.MODEL_STAGE_UNSPECIFIED, inference_pb2.MODEL_STAGE_CANDIDATE)

        async def judged() -> inference_pb2.ModelVersion | None:
            request = inference_pb2.ListModelVersionsRequest(
                model=MODEL, page=common_pb2.PageRequest(size=100)
            )
            answer = await reviewer.call(reviewer.models.ListModelVersions, request)
            found = (v for v in answer.versions if v.version == number and v.stage not in waiting)
            return next(found, None)

        what = f"{MODEL} version {number} has passed through its gates"
        return await self.stage.until(what, judged, within_s=SETTLE_S_MAX * 2)

    def show_gates(self, version: inference_pb2.ModelVersion) -> None:
        self.stage.table(
            f"Gates of {MODEL} version {version.version}",
            ("", "gate", "value", "limit", "detail"),
            (
                ("✓" if g.passed else "✗", g.gate, f"{g.value:.4g}", f"{g.limit:.4g}", g.detail)
                for g in version.gates
            ),
        )

    async def approve(self, who: AsyncClient, number: int) -> inference_pb2.ModelVersion:
        request = inference_pb2.ApproveModelVersionRequest(
            model=MODEL, version=number, comment="reviewed"
        )
        return (await who.call(who.models.ApproveModelVersion, request)).version

    async def deploy(self, number: int, weight: int, reason: str) -> inference_pb2.Deployment:
        operator = self.people.operator
        request = inference_pb2.DeployRequest(
            model=MODEL, version=number, weight=weight, reason=reason
        )
        answer = await operator.call(operator.deployments.Deploy, request, timeout_s=60)
        return await self.in_service(answer.deployment)

    async def in_service(self, deployment: inference_pb2.Deployment) -> inference_pb2.Deployment:
        """The deployment once it is in force at the door, as an application sees it."""
        self.stage.check(
            not deployment.problem,
            f"revision {deployment.revision} ({deployment.action}) serves {serves(deployment)}"
            + (f": {deployment.problem}" if deployment.problem else ", signature verified at load"),
        )
        expected = {str(variant.version) for variant in deployment.variants}
        model = self.people.application.load_model(MODEL)

        async def only_expected_versions() -> bool | None:
            row = self.held_out.values[0]
            answers = [await model.predict(row) for _ in range(ANSWERS_THAT_CONVINCE)]
            return True if {answer.model_version for answer in answers} <= expected else None

        what = f"the door serves revision {deployment.revision}"
        await self.stage.until(what, only_expected_versions, within_s=SETTLE_S_MAX)
        return deployment

    async def predict_each(self, patients: Patients) -> tuple[list[Prediction], list[float]]:
        model = self.people.application.load_model(MODEL)
        latencies_ms: list[float] = []
        room = asyncio.Semaphore(CALLS_AT_ONCE)
        with self.stage.progress("predicting", len(patients)) as moved:

            async def one(row: Any) -> Prediction:
                async with room:
                    began = time.perf_counter()
                    answer = await model.predict(row)
                    latencies_ms.append((time.perf_counter() - began) * 1000)
                    moved(len(latencies_ms))
                    return answer

            await model.describe()
            rows = patients.values.astype(np.float32)
            return list(await asyncio.gather(*(one(row) for row in rows))), latencies_ms


def accuracy(answers: list[Prediction], patients: Patients) -> float:
    right = [str(a.labels[0]) == d for a, d in zip(answers, patients.diagnoses, strict=True)]
    return sum(right) / len(right)
