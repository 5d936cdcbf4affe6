"""The Open Inference Protocol over gRPC, but for ModelInfer itself, which the dispatcher answers.

A stream's messages take the dispatcher's way one by one, so they are routed, limited and counted
as if each were a call of its own. A cancelled stream stops here: Triton never hears of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc.aio

from libs.common import telemetry
from libs.common.errors import BasaltError
from libs.common.identity import caller
from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from libs.common.pb.inference import grpc_inference_service_pb2_grpc as pb_grpc
from services.gateway.core.predicting import (
    EXTENSIONS,
    SERVER_NAME,
    TIMEOUT_S_DEFAULT,
    ModelDescription,
    Predicting,
    Question,
)

# Messages of one stream that are being answered at a time; more wait for their answers.
STREAM_IN_FLIGHT_MAX = 16

# Triton's names for it:
# https://github.com/triton-inference-server/server/blob/main/docs/user_guide/decoupled_models.md
MARK_FINAL, FINAL = "triton_enable_empty_final_response", "triton_final_response"

Answer = pb.ModelStreamInferResponse


@dataclass(frozen=True, slots=True)
class InferenceServicer(pb_grpc.GRPCInferenceServiceServicer):
    RPC_NAME: ClassVar[str] = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

    predicting: Predicting
    version: str

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Any
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Any
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=await self.predicting.ready())

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Any
    ) -> pb.ModelReadyResponse:
        ready = await self.predicting.model_ready(caller().tenant, request.name, request.version)
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Any
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=self.version, extensions=EXTENSIONS
        )

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Any
    ) -> pb.ModelMetadataResponse:
        found = await self.predicting.describe(caller().tenant, request.name, request.version)
        return _metadata(found)

    async def ModelStreamInfer(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[Answer]:
        # Answers leave in the order of the questions, while further questions are still coming.
        answers: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue(STREAM_IN_FLIGHT_MAX)
        reading = asyncio.create_task(self._read(request_iterator, answers))
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
        finally:
            reading.cancel()
            while not answers.empty():
                if (left := answers.get_nowait()) is not None:
                    left.cancel()

    async def _read(
        self,
        requests: AsyncIterator[pb.ModelInferRequest],
        answers: asyncio.Queue[asyncio.Task[Answer] | None],
    ) -> None:
        try:
            async for message in requests:
                await answers.put(asyncio.create_task(self._answer(message)))
        finally:
            await answers.put(None)

    async def _answer(self, message: pb.ModelInferRequest) -> Answer:
        who = caller()
        # Asks that the last answer to a question be marked; here each question has one answer.
        marked = message.parameters.pop(MARK_FINAL, pb.InferParameter()).bool_param
        question = Question(
            tenant=who.tenant,
            subject=who.subject,
            request=message.SerializeToString(),
            timeout_s=TIMEOUT_S_DEFAULT,
            traceparent=telemetry.traceparent(),
        )
        try:
            answer = pb.ModelInferResponse.FromString(await self.predicting.infer(question))
        except BasaltError as error:
            # The protocol's way: one message failed, the stream goes on.
            failed = pb.ModelInferResponse(model_name=message.model_name, id=message.id)
            _mark(failed, marked)
            return pb.ModelStreamInferResponse(error_message=str(error), infer_response=failed)
        _mark(answer, marked)
        return pb.ModelStreamInferResponse(infer_response=answer)


def _mark(answer: pb.ModelInferResponse, final: bool) -> None:
    if final:
        answer.parameters[FINAL].bool_param = True


def _metadata(found: ModelDescription) -> pb.ModelMetadataResponse:
    kind = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=found.name,
        versions=found.versions,
        platform=found.platform,
        inputs=[kind(name=t.name, datatype=t.datatype, shape=t.shape) for t in found.inputs],
        outputs=[kind(name=t.name, datatype=t.datatype, shape=t.shape) for t in found.outputs],
    )
