"""Predictions by way of the dispatcher's socket: every edge routes, limits and counts alike.

Messages pass as serialised protobuf of the Open Inference Protocol.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from libs.common.errors import (
    BY_CODE,
    BasaltError,
    DeadlineError,
    DependencyError,
    InternalError,
    InvalidInputError,
)
from services.gateway.core.limits import MESSAGE_BYTES_MAX
from services.gateway.core.predicting import Question

INFER = "/inference.GRPCInferenceService/ModelInfer"
# No method of the dispatcher: that it says so shows that it answers.
PING = "/basalt.Dispatcher/Ping"
PING_S_MAX = 2.0
# Parameters and names come on top of the tensors.
CHANNEL_BYTES_MAX = MESSAGE_BYTES_MAX + 1024 * 1024
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", CHANNEL_BYTES_MAX),
    ("grpc.max_send_message_length", CHANNEL_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
]
_CODES: dict[str, type[BasaltError]] = {
    **BY_CODE,
    "UNIMPLEMENTED": InvalidInputError,
    "OUT_OF_RANGE": InvalidInputError,
    "CANCELLED": DeadlineError,
}


class DispatcherSocket:
    """A part of the runtime: the channel opens with the first call."""

    name = "dispatcher socket"

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._opened: grpc.aio.Channel | None = None

    @property
    def _channel(self) -> grpc.aio.Channel:
        if self._opened is None:
            self._opened = grpc.aio.insecure_channel(f"unix:{self._socket}", OPTIONS)
        return self._opened

    async def start(self) -> None:
        """Opened by the first call."""

    async def stop(self) -> None:
        if self._opened is not None:
            await self._opened.close(None)

    async def infer(self, question: Question) -> bytes:
        metadata = [
            ("x-basalt-tenant", question.tenant),
            ("x-basalt-subject", question.subject),
        ]
        if question.traceparent:
            metadata.append(("traceparent", question.traceparent))
        call = self._channel.unary_unary(INFER, None, None)
        try:
            answer = await call(question.request, metadata=metadata, timeout=question.timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        return cast("bytes", answer)

    async def ping(self) -> None:
        try:
            await self._channel.unary_unary(PING, None, None)(b"", timeout=PING_S_MAX)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise self._translated(error) from error

    def _translated(self, error: grpc.aio.AioRpcError) -> BasaltError:
        said = error.details() or ""
        if error.code() is grpc.StatusCode.UNAVAILABLE and "Triton" not in said:
            # gRPC says this itself: nobody listens on the socket, or the connection broke.
            return DependencyError(
                "The dispatcher cannot be reached.",
                which="dispatcher",
                next_step="Try again shortly; `basalt status` shows what is wrong.",
            )
        return _CODES.get(error.code().name, InternalError)(said or error.code().name)
