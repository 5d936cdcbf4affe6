"""What the slow edge asks Triton itself: whether it is ready, and what a model looks like.

No call of ours is ever taken back: cancelled requests harm Triton, so what takes too long is left
to end unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from libs.common.errors import DependencyError, InternalError, NotFoundError
from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from libs.common.pb.inference.grpc_inference_service_pb2_grpc import GRPCInferenceServiceStub
from libs.common.tls import TLS, ServerTls, tls_for
from services.gateway.core.predicting import ModelDescription, TensorDescription

ASK_S_MAX = 5.0
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 30_000),
]
T = TypeVar("T")


class TritonServer:
    """A part of the runtime: the channel opens with the first call."""

    name = "triton channel"

    def __init__(self, address: str, tls: ServerTls | None = None) -> None:
        self._address = address.removeprefix(TLS)
        self._tls = tls_for(address, tls)
        self._opened: grpc.aio.Channel | None = None
        # Calls that nobody waits for any more; the event loop itself would forget them.
        self._unseen: set[asyncio.Future[Any]] = set()

    @property
    def _stub(self) -> GRPCInferenceServiceStub:
        if self._opened is None:
            self._opened = (
                grpc.aio.secure_channel(self._address, self._tls.channel_credentials(), OPTIONS)
                if self._tls
                else grpc.aio.insecure_channel(self._address, OPTIONS)
            )
        return GRPCInferenceServiceStub(self._opened)

    async def start(self) -> None:
        """Opened by the first call."""

    async def stop(self) -> None:
        if self._opened is not None:
            await self._opened.close(ASK_S_MAX)

    async def ready(self) -> bool:
        answer = await self._ask(self._stub.ServerReady(pb.ServerReadyRequest()))
        return answer.ready

    async def model_ready(self, internal_name: str) -> bool:
        request = pb.ModelReadyRequest(name=internal_name)
        return (await self._ask(self._stub.ModelReady(request))).ready

    async def describe(self, internal_name: str) -> ModelDescription:
        request = pb.ModelMetadataRequest(name=internal_name)
        answer = await self._ask(self._stub.ModelMetadata(request))
        return ModelDescription(
            platform=answer.platform,
            inputs=_tensors(answer.inputs),
            outputs=_tensors(answer.outputs),
        )

    async def ping(self) -> None:
        if not await self.ready():
            raise DependencyError(
                "Triton is not ready.",
                which="triton",
                next_step="Its models are being loaded; look again shortly.",
            )

    async def _ask(self, call: Awaitable[T]) -> T:
        asked = asyncio.ensure_future(_whole(call))
        self._unseen.add(asked)
        asked.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.shield(asked), ASK_S_MAX)
        except TimeoutError as error:
            raise self._absent(f"no answer within {ASK_S_MAX:.0f} s") from error
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise NotFoundError("Triton has no such model at this moment.") from error
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise self._absent("it cannot be reached") from error
            raise InternalError(f"Triton answers {error.code().name}.") from error

    def _ended(self, asked: asyncio.Future[Any]) -> None:
        self._unseen.discard(asked)
        if not asked.cancelled():
            asked.exception()  # Nobody may be left to see it.

    def _absent(self, why: str) -> DependencyError:
        return DependencyError(
            f"Triton does not serve: {why}.",
            which="triton",
            next_step="Its models come back by themselves when it does; try again shortly.",
            inside=self._address,
        )


async def _whole(call: Awaitable[T]) -> T:
    return await call


def _tensors(tensors: Any) -> tuple[TensorDescription, ...]:
    return tuple(
        TensorDescription(each.name, each.datatype, tuple(each.shape))
        for each in cast("list[pb.ModelMetadataResponse.TensorMetadata]", tensors)
    )
