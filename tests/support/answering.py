"""A gRPC server that answers as a test says, for the client's own tests.

with answering({"basalt.v1.ModelService/ListModels": one_model}) as server:
    basalt.connect(server.address, token="t")
    server.calls[0].metadata["authorization"]

A handler gets the request and the call's metadata. It answers a message, or several when the
method streams, or raises: an error of the platform (libs.common.errors), which becomes a status
with details as the platform writes it, or a RefusalError, which is a bare status as the door gives.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from basalt.aio import TAKES_IT
from basalt.pb.basalt.v1 import (
    gateway_pb2,
    inference_pb2,
    ingest_pb2,
    monitoring_pb2,
    security_pb2,
    trainer_pb2,
)
from basalt.pb.inference import grpc_inference_service_pb2
from libs.common.errors import BasaltError
from libs.common.status import to_status

CONTRACTS = (
    gateway_pb2,
    grpc_inference_service_pb2,
    inference_pb2,
    ingest_pb2,
    monitoring_pb2,
    security_pb2,
    trainer_pb2,
)
METHODS = {
    f"{service.full_name}/{method.name}": method
    for contract in CONTRACTS
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

Metadata = dict[str, str]
Handler = Callable[[Any, Metadata], Any]


class RefusalError(Exception):
    """A status without details, such as a proxy gives."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Call:
    method: str
    request: Any
    metadata: Metadata


@dataclass
class Answering(grpc.GenericRpcHandler):
    """`handlers` by method; changed by the test whenever it likes."""

    handlers: dict[str, Handler]
    address: str = ""
    calls: list[Call] = field(default_factory=list)

    def names(self) -> list[str]:
        """The methods called so far, without their services."""
        return [call.method.rpartition("/")[2] for call in self.calls]

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.lstrip("/")
        if name not in self.handlers:
            return None
        method = METHODS[name]
        metadata = {key: str(value) for key, value in handler_call_details.invocation_metadata}

        async def one(request: Any, context: Any) -> Any:
            async with _refusing(context):
                if method.client_streaming:
                    await context.send_initial_metadata(((TAKES_IT, "1"),))
                    request = [each async for each in request]
                self.calls.append(Call(name, request, metadata))
                return await _settled(self.handlers[name](request, metadata))

        async def many(request: Any, context: Any) -> Any:
            self.calls.append(Call(name, request, metadata))
            async with _refusing(context):
                async for answer in self.handlers[name](request, metadata):
                    yield answer

        makers = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
        }
        return makers[(method.client_streaming, method.server_streaming)](
            many if method.server_streaming else one,  # pyright: ignore[reportArgumentType]
            GetMessageClass(method.input_type).FromString,
            GetMessageClass(method.output_type).SerializeToString,
        )


async def _settled(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


class _refusing:  # noqa: N801 - read as a word.
    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RefusalError):
            await self._context.abort(error.code, error.text)
        if isinstance(error, BasaltError):
            await self._context.abort_with_status(rpc_status.to_status(to_status(error)))


@contextmanager
def answering(
    handlers: Mapping[str, Handler], listen: str = "127.0.0.1:0", tls: Path | None = None
) -> Iterator[Answering]:
    """The server, in a thread of its own; `tls` is a folder with door.key and door.pem."""
    answers = Answering(dict(handlers))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> grpc.aio.Server:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((answers,))
        if tls is None:
            port = server.add_insecure_port(listen)
        else:
            pair = ((tls / "door.key").read_bytes(), (tls / "door.pem").read_bytes())
            port = server.add_secure_port(listen, grpc.ssl_server_credentials([pair]))
        await server.start()
        answers.address = f"127.0.0.1:{port}"
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield answers
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
