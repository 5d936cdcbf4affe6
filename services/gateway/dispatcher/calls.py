"""One call of a caller: its state, and the gRPC words in which it is answered."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from libs.common import echo
from libs.common.echo import NEXT_STEP_BYTES_MAX, WHAT_BYTES_MAX
from services.gateway.dispatcher.headers import STATUS_200, literal

if TYPE_CHECKING:
    from services.gateway.dispatcher.messages import RequestForm, Span
    from services.gateway.dispatcher.queues import ModelQueue
    from services.gateway.dispatcher.routing import Target
    from services.gateway.dispatcher.server import EnvoyConnection
    from services.gateway.dispatcher.tenants import Tenant


class Status(IntEnum):
    """https://grpc.io/docs/guides/status-codes/"""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class RefusedError(Exception):
    """A call that is answered with an error; the message is for the caller's eyes."""

    def __init__(self, code: Status, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Trace:
    """A sampled trace context: https://www.w3.org/TR/trace-context/"""

    trace_id: str
    parent_id: str


@dataclass(frozen=True, slots=True)
class Token:
    """What a revocation knows a token by: `libs.common.revocations`."""

    id: str
    login_id: str
    subject: str
    generation: int


@dataclass(frozen=True, slots=True, eq=False)
class CallHeaders:
    """What a call's headers say."""

    path: bytes
    tenant: str
    subject: str
    token: Token | None  # None where whoever calls has verified it: the slow edge.
    timeout_s: float | None
    trace: Trace | None  # Set only where the caller's trace is sampled.
    encoding: bytes


READING, WAITING, SENT, ABANDONED, DONE = range(5)
"""A call's states. ABANDONED: its caller is gone or answered, but Triton still works on it."""


class Call:
    """One ModelInfer call, from its first header to its release."""

    __slots__ = (
        "arrived",
        "body",
        "chunks",
        "complete",
        "connection",
        "deadline_tick",
        "form",
        "headers",
        "held_bytes",
        "model",
        "raws",
        "request_id",
        "routed",
        "span_id",
        "state",
        "stream_id",
        "target",
        "tenant",
        "unacknowledged",
    )

    # Set once the call is `routed`, and not before.
    form: "RequestForm"
    target: "Target"

    def __init__(
        self, connection: "EnvoyConnection", stream_id: int, headers: CallHeaders, arrived: float
    ) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.headers = headers
        self.arrived = arrived
        self.state = READING
        self.routed = False
        self.complete = False  # Its whole body has come.
        self.deadline_tick = 0
        self.held_bytes = 0
        self.unacknowledged = 0
        self.chunks: list[bytes] | None = None
        self.body = b""
        self.request_id = b""
        self.span_id = ""
        self.raws: tuple[Span, ...] = ()
        self.tenant: Tenant | None = None
        self.model: ModelQueue | None = None


TRAILERS_OK = literal(b"grpc-status", b"0")
_ERROR_OPENING = STATUS_200 + literal(b"content-type", b"application/grpc")
MESSAGE_BYTES_MAX = WHAT_BYTES_MAX + NEXT_STEP_BYTES_MAX  # A peer may refuse longer trailers.


def error_block(code: int, message: str) -> bytes:
    """The one header block of an answer that is only an error."""
    said = echo.encoded(echo.bounded(message, MESSAGE_BYTES_MAX)).encode("ascii")
    return _ERROR_OPENING + literal(b"grpc-status", b"%d" % code) + literal(b"grpc-message", said)


def timeout_s(value: bytes) -> float | None:
    """The value of the header `grpc-timeout`, or None where it is malformed."""
    seconds = _UNITS.get(value[-1:])
    digits = value[:-1]
    if seconds is None or not digits.isdigit() or len(digits) > 8:
        return None
    return int(digits) * seconds


_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def sampled_trace(value: bytes) -> Trace | None:
    """The value of the header `traceparent`, or None where it is malformed or not sampled."""
    parts = value.split(b"-")
    if len(value) < 55 or [len(part) for part in parts[:4]] != [2, 32, 16, 2]:
        return None
    try:
        sampled = bytes.fromhex(value.replace(b"-", b"")[:52].decode())[25] & 1
    except ValueError:
        return None
    return Trace(parts[1].decode(), parts[2].decode()) if sampled else None
