"""The real inference service with security, Kafka and Triton, and a shelf of candidates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio

from libs.common.bus import Bus
from libs.common.flow import TRAINING_COMPLETED
from libs.common.pb.basalt.v1 import common_pb2, trainer_pb2
from libs.common.pb.basalt.v1 import inference_pb2 as pb
from libs.common.pb.basalt.v1.inference_pb2_grpc import DeploymentServiceStub, ModelServiceStub
from libs.common.pb.basalt.v1.trainer_pb2_grpc import (
    TrainerServiceServicer,
    add_TrainerServiceServicer_to_server,
)
from libs.common.stores.ports import Outgoing
from services.inference.app import build
from services.inference.settings import Settings
from tests.support.candidates import Candidate
from tests.support.eventually import eventually
from tests.support.kafka import sender
from tests.support.platform import Security, bearer, running

T = TypeVar("T")


class CandidateShelf(TrainerServiceServicer):
    """The one call of the trainer that inference makes, answered from memory over real gRPC."""

    def __init__(self) -> None:
        self.candidates: dict[str, Candidate] = {}

    async def ReadCandidate(  # noqa: N802
        self, request: trainer_pb2.ReadCandidateRequest, context: Any
    ) -> AsyncIterator[trainer_pb2.ReadCandidateResponse]:
        if request.job not in self.candidates:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no job {request.job}.")
        for part in self.candidates[request.job].parts():
            file = None
            if part.file is not None:
                file = common_pb2.FileRef(**part.file.model_dump())
            yield trainer_pb2.ReadCandidateResponse(file=file, part=part.content)


@asynccontextmanager
async def shelf_at(address: str) -> AsyncIterator[CandidateShelf]:
    shelf = CandidateShelf()
    server = grpc.aio.server()
    add_TrainerServiceServicer_to_server(shelf, server)
    server.add_insecure_port(address)
    await server.start()
    yield shelf
    await server.stop(None)


@dataclass
class Inference:
    """What a test asks of the service, as whom."""

    security: Security
    shelf: CandidateShelf
    bus: Bus
    channel: grpc.aio.Channel

    def stub(self, kind: Callable[[Any], T]) -> T:
        return kind(self.channel)

    @property
    def models(self) -> ModelServiceStub:
        return self.stub(ModelServiceStub)

    @property
    def deployments(self) -> DeploymentServiceStub:
        return self.stub(DeploymentServiceStub)

    async def as_user(self, name: str, tenant: str = "acme") -> dict[str, Any]:
        """ada builds and may review, bob reviews, ops operates, everybody in their tenant."""
        roles = {"ada": ["engineer", "reviewer"], "bob": ["reviewer"], "ops": ["operator"]}[name]
        return bearer(await self.security.user(tenant, name, roles))

    async def tell(self, candidate: Candidate, event_id: str = "") -> None:
        """The trainer's fact, on Kafka."""
        await self.as_user("ada", candidate.tenant)  # Makes the tenant.
        self.shelf.candidates[candidate.job] = candidate
        event = candidate.completed(event_id)
        await self.bus.publish(
            Outgoing(
                event_id=event.id,
                topic=TRAINING_COMPLETED.name,
                key=TRAINING_COMPLETED.key_of(event),
                payload=event.model_dump_json(),
            )
        )

    async def version(self, number: int, model: str = "boxes") -> pb.ModelVersion:
        answer = await self.models.GetModelVersion(
            pb.GetModelVersionRequest(model=model, version=number), **await self.as_user("ada")
        )
        return answer.version

    async def judged(self, number: int, model: str = "boxes") -> pb.ModelVersion:
        """A version once its gates were measured."""

        async def past_gates() -> pb.ModelVersion | None:
            try:
                version = await self.version(number, model)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return None
                raise
            return version if version.stage != pb.MODEL_STAGE_CANDIDATE else None

        found = await eventually(past_gates, within_s=60)
        assert found is not None
        return found

    async def signed(self, candidate: Candidate, number: int) -> pb.ModelVersion:
        await self.tell(candidate)
        judged = await self.judged(number, candidate.model)
        assert judged.stage == pb.MODEL_STAGE_GATED, judged.gates
        answer = await self.models.ApproveModelVersion(
            pb.ApproveModelVersionRequest(model=candidate.model, version=number),
            **await self.as_user("bob"),
        )
        return answer.version

    async def deploy(self, number: int, weight: int = 100, model: str = "boxes") -> pb.Deployment:
        answer = await self.deployments.Deploy(
            pb.DeployRequest(model=model, version=number, weight=weight),
            **await self.as_user("ops"),
        )
        return answer.deployment

    async def routes(self) -> pb.WatchRoutesResponse:
        """The table at this moment, as the gateway gets it."""
        token = await self.security.service_token("gateway")
        watching = self.deployments.WatchRoutes(pb.WatchRoutesRequest(), **bearer(token))
        async for table in watching:
            watching.cancel()
            return table
        raise AssertionError("The watch ended without a table.")


def inference_settings(security: Security, triton: str, control_key: str) -> Settings:
    return Settings(**security.settings("inference"), triton=triton, triton_control_key=control_key)


@asynccontextmanager
async def beside_inference(security: Security) -> AsyncIterator[Inference]:
    """Everything around an inference that runs, or will run, at its address."""
    channel = grpc.aio.insecure_channel(security.peers["inference"])
    async with shelf_at(security.peers["trainer"]) as shelf, sender(security.kafka) as bus:
        yield Inference(security, shelf, bus, channel)
    await channel.close(None)


@asynccontextmanager
async def running_inference(
    security: Security, triton: str, control_key: str
) -> AsyncIterator[Inference]:
    service = build(inference_settings(security, triton, control_key))
    async with beside_inference(security) as inference, running(service):
        yield inference
