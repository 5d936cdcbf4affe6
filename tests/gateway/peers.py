"""A gRPC server that computes as Triton would, and lets a test hold and watch its requests."""

import asyncio
from typing import Self

import grpc
import numpy as np

from libs.common.pb.inference.grpc_inference_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
)
from libs.common.pb.inference.grpc_inference_service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

MESSAGE_BYTES_MAX = 128 * 1024 * 1024
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
]


class Peer(GRPCInferenceServiceServicer):
    """Answers by the internal model's name.

    `*.double`: y = 2x, and INVALID_ARGUMENT for all where one value is negative.
    `*.sum`: one row, whatever was asked.  `*.text`: each row's sum as BYTES.  `*.echo`: y = x.
    """

    def __init__(self) -> None:
        self.requests: list[ModelInferRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.cancelled = 0
        self.open = asyncio.Event()
        self.open.set()
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self, port: int = 0) -> Self:
        server = self._server = grpc.aio.server(options=OPTIONS)
        add_GRPCInferenceServiceServicer_to_server(self, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        return self

    async def stop(self, grace_s: float | None = None) -> None:
        if self._server is not None:
            await self._server.stop(grace_s)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def ModelInfer(  # noqa: N802  The protocol's name.
        self, request: ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> ModelInferResponse:
        self.requests.append(request)
        self.metadata.append(
            {key: str(value) for key, value in context.invocation_metadata() or ()}
        )
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if request.model_name.endswith(".missing"):
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"unknown model: '{request.model_name}' is not found"
            )
        x = np.frombuffer(request.raw_input_contents[0], np.float32)
        x = x.reshape(list(request.inputs[0].shape))
        answer = ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        if request.model_name.endswith(".text"):
            texts = [b"%g" % row.sum() for row in x]
            answer.outputs.add(name="y", datatype="BYTES", shape=[len(texts), 1])
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
            answer.raw_output_contents.append(raw)
            return answer
        if request.model_name.endswith(".double") and (x < 0).any():
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"negative in {request.model_name}"
            )
        y = {"double": x * 2, "echo": x, "sum": x.sum(keepdims=True)}[
            request.model_name.rpartition(".")[2]
        ]
        answer.outputs.add(name="y", datatype="FP32", shape=y.shape)
        answer.raw_output_contents.append(y.tobytes())
        return answer
