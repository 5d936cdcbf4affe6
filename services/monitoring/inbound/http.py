"""What speaks plain HTTP: /metrics for who has its key, /v1/traces for known senders' spans."""

from __future__ import annotations

import hmac
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

from libs.common import senders as tokens
from libs.common.errors import BasaltError, InvalidInputError, LimitError, UnauthenticatedError
from services.monitoring.core.senders import Senders
from services.monitoring.inbound.otlp import MESSAGE_BYTES_MAX, answer
from services.monitoring.inbound.spans import from_json, from_protobuf, spans_of
from services.monitoring.ports import TraceStore

ENCODING_CHARACTERS_MAX = 32
PROTOBUF, JSON = "application/x-protobuf", "application/json"


def metrics_app(exposition: Callable[[], bytes], key: str) -> ASGIApp:
    """They name tenants and models, so they are for whoever sends the key as a bearer token."""
    wanted = tokens.authorization(key).encode()

    async def metrics(request: Request) -> Response:
        said = request.headers.get(tokens.HEADER, "").encode(errors="replace")
        if not hmac.compare_digest(said, wanted):
            return PlainTextResponse(
                "Send `authorization: Bearer <key>`; BASALT_METRICS_KEY has it.",
                status_code=401,
                headers={"www-authenticate": "Bearer"},
            )
        return Response(exposition(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


def otlp_app(store: TraceStore, senders: Senders) -> ASGIApp:
    """Answers in the form that it was asked in, as the protocol wants it."""

    async def export(request: Request) -> Response:
        form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            sender = senders.known(request.headers.get(tokens.HEADER, ""))
        except UnauthenticatedError as error:
            headers = {"www-authenticate": "Bearer"}
            return PlainTextResponse(str(error), status_code=401, headers=headers)
        if form not in (PROTOBUF, JSON):
            return PlainTextResponse(f"Send {PROTOBUF} or {JSON}.", status_code=415)
        try:
            body = await _body(request)
            senders.weighed(sender, len(body))
            said = from_json(body) if form == JSON else from_protobuf(body)
            spans, refused = senders.own(sender, *spans_of(said))
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
    match request.headers.get("content-encoding", "").lower():
        case "" | "identity":
            return bytes(body)
        case "gzip":
            return _unpacked(bytes(body))
        case other:
            raise InvalidInputError(
                f"A body packed by {other[:ENCODING_CHARACTERS_MAX]!r} cannot be read.",
                which="otlp",
                next_step="Send it as it is, or packed by gzip.",
            )


def _unpacked(body: bytes) -> bytes:
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = unzip.decompress(body, MESSAGE_BYTES_MAX)
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
