"""The Open Inference Protocol over REST, as KServe and Triton define it: convert, call, convert."""

from __future__ import annotations

import asyncio
import gzip
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
_GZIP = ("gzip", "x-gzip")
_INFLATE_BITS = {**dict.fromkeys(_GZIP, 31), "deflate": 15}  # zlib's names for the two formats.
# Of a body that is too large so much more is read, so that its sender hears why it is refused.
DRAINED_BYTES_MAX = 4 * BODY_BYTES_MAX
# Compressed bytes that are opened in one go; and members of a gzip body.
INFLATED_AT_ONCE, MEMBERS_MAX = 64 * 1024, 1_000
GZIP_BYTES_MIN, GZIP_LEVEL = 1_024, 1
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
                    return await _encoded(request, await handler(request, who))
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


class TooLargeError(LimitError):
    """A body over the limit: of HTTP's statuses another one than for too many calls."""

    def __init__(self) -> None:
        super().__init__(
            f"The request is over {BODY_BYTES_MAX} bytes, the limit of a REST body.",
            which="BODY_BYTES_MAX",
            next_step="Send fewer rows at a time, or use binary data or gRPC.",
        )


def failure(error: BasaltError) -> Response:
    status = 413 if isinstance(error, TooLargeError) else STATUS.get(error.code, 500)
    return _error(status, str(error))


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
    left_out = 0
    async for part in request.stream():
        if not left_out and len(body) + len(part) <= BODY_BYTES_MAX:
            body += part
            continue
        # Who is still sending hears an answer only once somebody has read that.
        body.clear()
        left_out += len(part)
        if left_out > DRAINED_BYTES_MAX:
            break
    if left_out:
        raise TooLargeError
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return bytes(body)
    # However few they are, nobody knows how many they become.
    return await asyncio.to_thread(inflated, bytes(body), encoding)


def inflated(body: bytes, encoding: str) -> bytes:
    """A body without its encoding: of gzip any number of members one after the other (RFC 1952).

    Raises InvalidInputError for one that is cut off or goes on as something else, TooLargeError.
    """
    bits = _INFLATE_BITS.get(encoding)
    if bits is None:
        raise InvalidInputError(
            f"The content encoding {bounded(encoding)} is not known.",
            which="content-encoding",
            next_step="Use gzip or deflate.",
        )
    view, at, members = memoryview(body), 0, 0
    content = bytearray()
    try:
        while at < len(view) or not members:
            members += 1
            if members > (MEMBERS_MAX if encoding in _GZIP else 1):
                raise zlib.error("too much follows its end")
            inflater = zlib.decompressobj(bits)
            while not inflater.eof:
                if at >= len(view):
                    raise InvalidInputError(
                        f"The body ends in the middle of its {encoding}.",
                        which="body",
                        next_step="Send all of it.",
                    )
                part = view[at : at + INFLATED_AT_ONCE]
                content += inflater.decompress(part, BODY_BYTES_MAX + 1 - len(content))
                if len(content) > BODY_BYTES_MAX:
                    raise TooLargeError
                at += len(part) - len(inflater.unused_data)
    except zlib.error as error:
        raise InvalidInputError(f"The body is not {encoding}: {error}.", which="body") from error
    return bytes(content)


def _accepts_gzip(given: str) -> bool:
    """Whether a caller takes gzip (RFC 9110, 12.5.3): by name or *, and not with a weight of 0."""
    weights: dict[str, bool] = {}
    for each in given.lower().split(","):
        coding, *parameters = (part.strip() for part in each.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        weights[coding] = weight.strip("0.") != ""
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", False)))


async def _encoded(request: Request, response: Response) -> Response:
    """The response as its caller takes it: compressed, where that is asked for and saves much."""
    if len(response.body) < GZIP_BYTES_MIN:
        return response
    response.headers["vary"] = "accept-encoding"
    if not _accepts_gzip(request.headers.get("accept-encoding", "")):
        return response
    content = bytes(response.body)
    packed = await _aside(len(content), lambda: gzip.compress(content, GZIP_LEVEL, mtime=0))
    response.body = packed
    response.headers["content-encoding"] = "gzip"
    response.headers["content-length"] = str(len(packed))
    return response
