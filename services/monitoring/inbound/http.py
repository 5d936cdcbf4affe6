"""What speaks plain HTTP: /metrics for Prometheus, /v1/traces for spans; both open and private."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import Callable, Iterator

import uvicorn
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import status_pb2
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from libs.common.errors import BasaltError, DependencyError, InvalidInputError, LimitError
from services.monitoring.inbound.otlp import MESSAGE_BYTES_MAX, answer
from services.monitoring.inbound.spans import from_json, from_protobuf, spans_of
from services.monitoring.ports import TraceStore

PROTOBUF, JSON = "application/x-protobuf", "application/json"
CONNECTIONS_MAX = 256
KEEP_ALIVE_S = 30
STOP_GRACE_S = 2
LISTEN_BACKLOG = 128


def metrics_app(exposition: Callable[[], bytes]) -> ASGIApp:
    async def metrics(_: Request) -> Response:
        return Response(exposition(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


def otlp_app(store: TraceStore) -> ASGIApp:
    """Answers in the form that it was asked in, as the protocol wants it."""

    async def export(request: Request) -> Response:
        form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if form not in (PROTOBUF, JSON):
            return PlainTextResponse(f"Send {PROTOBUF} or {JSON}.", status_code=415)
        try:
            body = await _body(request)
            spans, refused = spans_of(from_json(body) if form == JSON else from_protobuf(body))
            await store.add(spans)
        except BasaltError as error:
            return _encoded(form, status_pb2.Status(message=str(error)), _status_code(error))
        except ClientDisconnect:
            return Response(status_code=400)
        return _encoded(form, answer(refused), 200)

    return Starlette(routes=[Route("/v1/traces", export, methods=["POST"])])


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MESSAGE_BYTES_MAX:
            raise _too_large()
    if request.headers.get("content-encoding", "").lower() != "gzip":
        return bytes(body)
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = unzip.decompress(bytes(body), MESSAGE_BYTES_MAX)
    except zlib.error as error:
        raise InvalidInputError("The body is not gzip.", which="otlp") from error
    if unzip.unconsumed_tail:
        raise _too_large()
    return content


def _too_large() -> InvalidInputError:
    return InvalidInputError(
        f"The body is over {MESSAGE_BYTES_MAX} bytes.",
        which="otlp",
        next_step="Send fewer spans at once.",
    )


def _status_code(error: BasaltError) -> int:
    # 429 and 503 are what an exporter tries again.
    return 429 if isinstance(error, LimitError) else 503 if error.retryable else 400


def _encoded(form: str, message: Message, status_code: int) -> Response:
    content = (
        json_format.MessageToJson(message, indent=None).encode()
        if form == JSON
        else message.SerializeToString()
    )
    return Response(content, media_type=form, status_code=status_code)


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Signals belong to the runtime, which stops the parts in order.
        yield


class HttpServer:
    """A part of the runtime that serves an ASGI application at host:port."""

    def __init__(self, name: str, listen: str, app: ASGIApp) -> None:
        self.name = name
        self._listen = listen
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_GRACE_S,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        listener = self._bind()
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([listener]), name=self.name)

    def _bind(self) -> socket.socket:
        host, _, port = self._listen.rpartition(":")
        try:
            return socket.create_server((host, int(port)), backlog=LISTEN_BACKLOG)
        except (OSError, ValueError, OverflowError) as error:
            raise DependencyError(
                f"{self._listen} cannot be listened on for {self.name}: {error}.",
                which=self._listen,
                next_step="Another process may hold the port: end it, or set another host:port.",
            ) from error

    async def stop(self) -> None:
        if self._task is not None:
            self._server.should_exit = True
            await self._task

    @property
    def problem(self) -> str:
        ended = self._task is not None and self._task.done()
        return f"{self.name} is no longer served." if ended else ""
