import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
import uvloop

from libs.common.pb.inference.grpc_inference_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
)
from libs.common.pb.inference.grpc_inference_service_pb2_grpc import GRPCInferenceServiceStub
from services.gateway.dispatcher import (
    CallSpan,
    Dispatcher,
    Limits,
    Route,
    RoutingTable,
    Variant,
)
from tests.gateway.peers import OPTIONS, Peer

DIGEST = "sha256:" + "ab" * 32
TENANT = ("x-basalt-tenant", "acme")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}  # What the dispatcher runs on.


def route(model: str, **options: object) -> Route:
    variant = Variant(f"internal.{model}", "3", DIGEST, 1)
    return Route("acme", model, (variant,), **options)  # pyright: ignore[reportArgumentType]


def request(rows: list[list[float]], model: str = "double", **fields: str) -> ModelInferRequest:
    x = np.array(rows, np.float32)
    made = ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()], **fields)
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return made


def values(answer: ModelInferResponse) -> list[list[float]]:
    y = np.frombuffer(answer.raw_output_contents[0], np.float32)
    return y.reshape(list(answer.outputs[0].shape)).tolist()


@dataclass
class Door:
    """A dispatcher before a peer, and a client of it."""

    dispatcher: Dispatcher
    peer: Peer
    socket: Path
    channel: grpc.aio.Channel
    spans: list[CallSpan] = field(default_factory=list)

    def call(
        self,
        made: ModelInferRequest,
        *metadata: tuple[str, str],
        timeout: float | None = 20.0,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryUnaryCall:
        return GRPCInferenceServiceStub(self.channel).ModelInfer(
            made, metadata=metadata or (TENANT,), timeout=timeout, compression=compression
        )

    async def refused(
        self, made: ModelInferRequest, *metadata: tuple[str, str], timeout: float = 20.0
    ) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.call(made, *metadata, timeout=timeout)
        return refused.value.code(), refused.value.details() or ""


@pytest.fixture
def limits() -> Limits:
    return Limits(tenant_concurrency_max=1_000, triton_absent_s_max=1.0)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = await Peer().start()
    yield peer
    peer.open.set()
    await peer.stop()


@pytest.fixture
async def door(peer: Peer, limits: Limits, tmp_path: Path) -> AsyncIterator[Door]:
    spans: list[CallSpan] = []
    dispatcher = Dispatcher(peer.address, limits=limits, on_span=spans.append)
    dispatcher.use(
        RoutingTable.of(
            [
                route("double"),
                route("text"),
                route("sum"),
                route("missing"),
                route("echo", merge=False),
            ]
        )
    )
    socket = tmp_path / "door.sock"
    await dispatcher.start(socket)
    channel = grpc.aio.insecure_channel(f"unix:{socket}", options=OPTIONS)
    yield Door(dispatcher, peer, socket, channel, spans)
    await channel.close()
    peer.open.set()
    await dispatcher.close(grace_s=5.0)
