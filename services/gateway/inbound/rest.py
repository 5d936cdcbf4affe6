"""The Open Inference Protocol over REST, as KServe and Triton define it: convert, call, convert."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from libs.common import telemetry
from libs.common.echo import NEXT_STEP_BYTES_MAX, WHAT_BYTES_MAX, bounded
from libs.common.errors import (
    BasaltError,
    InvalidInputError,
    LimitError,
)
from libs.common.identity import Caller, TokenVerifier
from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from libs.common.policy import Policy
from services.gateway.core.limits import MESSAGE_BYTES_MAX
from services.gateway.core.predicting import (
    EXTENSIONS,
    SERVER_NAME,
    ModelDescription,
    Predicting,
    Question,
    TensorDescription,
)
from services.gateway.inbound.tensors import answer_of, request_of

HEADER_LENGTH = "Inference-Header-Content-Length"
DIGEST = "basalt_digest"
# JSON takes about four times the bytes of the numbers in it.
BODY_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
# Reading a body larger than this would keep others waiting: a thread does it.
INLINE_BYTES_MAX = 256 * 1024
STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 412,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_INFLATE_BITS = {"gzip": 31, "deflate": 15}  # zlib's names for the two formats.
_METHOD = "inference.GRPCInferenceService"

Handler = Callable[[Request, Caller], Awaitable[Response]]
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rest:
    predicting: Predicting
    verifier: TokenVerifier
    policy: Policy
    version: str

    def app(self) -> ASGIApp:
        model, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        routes = [
            self._route("/v2", self.server, "ServerMetadata"),
            self._route("/v2/health/live", self.live, "ServerLive"),
            self._route("/v2/health/ready", self.ready, "ServerReady"),
        ]
        for path in (model, versioned):
            routes += [
                self._route(path, self.metadata, "ModelMetadata"),
                self._route(f"{path}/ready", self.model_ready, "ModelReady"),
                self._route(f"{path}/infer", self.infer, "ModelInfer", verb="POST"),
            ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_route})

    def _route(self, path: str, handler: Handler, method: str, verb: str = "GET") -> Route:
        async def answer(request: Request) -> Response:
            under = request.headers.get("traceparent", "")
            name = f"{_METHOD}/{method}"
            with telemetry.span(name, SpanKind.SERVER, under=under, rpc_system="rest") as span:
                try:
                    who = self._admitted(request, name)
                    span.set_attribute(telemetry.TENANT, who.tenant)
                    return await handler(request, who)
                except BasaltError as error:
                    return failure(error)
                except ClientDisconnect:
                    return Response(status_code=400)
                except Exception as error:
                    log.exception("internal_fault", method=name)
                    span.record_exception(error)
                    return _error(500, f"The gateway failed; trace {telemetry.trace_id()}.")

        return Route(path, answer, methods=[verb])

    def _admitted(self, request: Request, method: str) -> Caller:
        who = self.verifier.caller(request.headers.get("authorization", ""))
        decision = self.policy.decide(who, method, None)
        if not decision.allowed:
            raise decision.refusal(who, method)
        return who

    async def server(self, request: Request, who: Caller) -> Response:
        return _json({"name": SERVER_NAME, "version": self.version, "extensions": EXTENSIONS})

    async def live(self, request: Request, who: Caller) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request, who: Caller) -> Response:
        return _readiness(await self.predicting.ready())

    async def metadata(self, request: Request, who: Caller) -> Response:
        return _json(_shown(await self.predicting.describe(who.tenant, *_model(request))))

    async def model_ready(self, request: Request, who: Caller) -> Response:
        return _readiness(await self.predicting.model_ready(who.tenant, *_model(request)))

    async def infer(self, request: Request, who: Caller) -> Response:
        body = await _body(request)
        model, version = _model(request)
        made, wanted = await _aside(
            len(body), lambda: request_of(model, version, body, _header_bytes(request))
        )
        question = Question(
            tenant=who.tenant,
            subject=who.subject,
            request=made.SerializeToString(),
            traceparent=telemetry.traceparent(),
        )
        raw = await self.predicting.infer(question)
        answer = pb.ModelInferResponse.FromString(raw)
        content, header_bytes = await _aside(len(raw), lambda: answer_of(answer, wanted))
        headers = {
            "basalt-model-version": answer.model_version,
            "basalt-model-digest": answer.parameters[DIGEST].string_param,
        }
        if header_bytes is None:
            return Response(content, media_type="application/json", headers=headers)
        headers[HEADER_LENGTH] = str(header_bytes)
        return Response(content, media_type="application/octet-stream", headers=headers)


def failure(error: BasaltError) -> Response:
    return _error(STATUS.get(error.code, 500), str(error))


def _error(status: int, text: str) -> Response:
    return _json({"error": bounded(text, WHAT_BYTES_MAX + NEXT_STEP_BYTES_MAX)}, status)


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    asked = f"{bounded(request.method)} {bounded(request.url.path)}"
    return _error(status, f"There is no {asked} here.")


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")


def _readiness(ready: bool) -> Response:
    return _json({"ready": ready}, 200 if ready else 503)


def _model(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _shown(found: ModelDescription) -> dict[str, Any]:
    def tensors(described: tuple[TensorDescription, ...]) -> list[dict[str, Any]]:
        return [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in described]

    return {
        "name": found.name,
        "versions": found.versions,
        "platform": found.platform,
        "inputs": tensors(found.inputs),
        "outputs": tensors(found.outputs),
    }


def _header_bytes(request: Request) -> int | None:
    given = request.headers.get(HEADER_LENGTH)
    if given is None:
        return None
    if not given.isdecimal() or len(given) > 12:
        raise InvalidInputError(f"{HEADER_LENGTH} is no number.", which=HEADER_LENGTH)
    return int(given)


async def _aside(size: int, work: Callable[[], Any]) -> Any:
    """Does work on so many bytes: at once, or in a thread where it would hold up the others."""
    return work() if size <= INLINE_BYTES_MAX else await asyncio.to_thread(work)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise _too_large()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return bytes(body)
    return await _aside(len(body), lambda: _inflated(bytes(body), encoding))


def _inflated(body: bytes, encoding: str) -> bytes:
    bits = _INFLATE_BITS.get(encoding)
    if bits is None:
        raise InvalidInputError(
            f"The content encoding {encoding} is not known.",
            which="content-encoding",
            next_step="Use gzip or deflate.",
        )
    inflater = zlib.decompressobj(bits)
    try:
        content = inflater.decompress(body, BODY_BYTES_MAX)
    except zlib.error as error:
        raise InvalidInputError(f"The body is not {encoding}.", which="body") from error
    if inflater.unconsumed_tail:
        raise _too_large()
    return content


def _too_large() -> LimitError:
    return LimitError(
        f"The request is over {BODY_BYTES_MAX} bytes, the limit of a REST body.",
        which="BODY_BYTES_MAX",
        next_step="Send fewer rows at a time, or use binary data or gRPC.",
    )
