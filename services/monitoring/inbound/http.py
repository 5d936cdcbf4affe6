"""What speaks plain HTTP: /metrics for Prometheus, /v1/traces for spans; both open and private."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import status_pb2
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from libs.common.errors import BasaltError, InvalidInputError, LimitError
from services.monitoring.inbound.otlp import MESSAGE_BYTES_MAX, answer
from services.monitoring.inbound.spans import from_json, from_protobuf, spans_of
from services.monitoring.ports import TraceStore

PROTOBUF, JSON = "application/x-protobuf", "application/json"


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
