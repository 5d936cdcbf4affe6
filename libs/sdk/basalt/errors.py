"""What a call may raise: what, which and what next; `retryable` when the same may pass later.

BasaltError               `code` is gRPC's name of the kind: NOT_FOUND, UNAVAILABLE...
├── InvalidInputError     INVALID_ARGUMENT, found before anything was sent
├── UnreachableError      UNAVAILABLE, because nobody answers at the platform's address  (retry)
└── ClosedError           FAILED_PRECONDITION, the client was closed before
"""

from __future__ import annotations

from typing import Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc.aio import AioRpcError
from grpc_status import rpc_status


class BasaltError(Exception):
    """`code` is gRPC's: NOT_FOUND, UNAVAILABLE... `which` the thing that it is about."""

    def __init__(
        self, what: str, *, code: str, which: str = "", next_step: str = "", retryable: bool = False
    ) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.which = which
        self.next_step = next_step
        self.retryable = retryable

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.next_step) if part)


class InvalidInputError(BasaltError):
    """The caller has to change what it sends."""

    def __init__(self, what: str, *, which: str = "", next_step: str = "") -> None:
        super().__init__(what, code="INVALID_ARGUMENT", which=which, next_step=next_step)


class UnreachableError(BasaltError):
    """`which` is the address at which nobody answers."""

    def __init__(self, what: str, *, which: str, next_step: str) -> None:
        super().__init__(what, code="UNAVAILABLE", which=which, next_step=next_step, retryable=True)


class ClosedError(BasaltError):
    """The client was closed, and is used again."""

    def __init__(self) -> None:
        super().__init__(
            "This client is closed.",
            code="FAILED_PRECONDITION",
            which="client",
            next_step="Make a new one: basalt.connect(...).",
        )


# Where a status has no details of ours, these may pass when they are tried again.
RETRYABLE_CODES = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"})
# How gRPC begins when no connection came about, so that nothing was sent.
NO_SUCH_HOST = ("dns resolution failed", "errors resolving")
NOT_CONNECTED = ("failed to connect", "connections to all backends", *NO_SUCH_HOST)


def from_rpc(error: grpc.RpcError, address: str) -> BasaltError:
    """The error behind a failed call, as the platform or the door worded it."""
    call = cast("AioRpcError", error)
    code = call.code().name
    details = call.details() or ""
    told = _told(call, code)
    if told is not None:
        return told
    if code == "UNAVAILABLE" and details.lower().startswith(NOT_CONNECTED):
        return _unreachable(details, address)
    if code == "DEADLINE_EXCEEDED":
        return BasaltError(
            f"The platform at {address} did not answer in time.",
            code=code,
            which=address,
            next_step="Give the call more time, or see what is wrong: `basalt status`.",
            retryable=True,
        )
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:
        return InvalidInputError(
            f"The message is too large: {details}.",
            which="message",
            next_step="Send less at a time.",
        )
    what = details or f"The call ended as {code}."
    return BasaltError(what, code=code, retryable=code in RETRYABLE_CODES)


def _told(call: AioRpcError, code: str) -> BasaltError | None:
    """What one of the platform's services said of it."""
    try:
        status = rpc_status.from_call(cast("Any", call))
    except ValueError:
        # A proxy on the way has put another code or text beside the details.
        return None
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if status is not None and detail.Unpack(info):
            next_step = info.metadata["next_step"]
            return BasaltError(
                status.message.removesuffix(next_step).strip(),
                code=code,
                which=info.metadata["which"],
                next_step=next_step,
                retryable=info.metadata["retryable"] == "true",
            )
    return None


def _unreachable(details: str, address: str) -> BasaltError:
    lower = details.lower()
    if lower.startswith(NO_SUCH_HOST):
        host = address.rpartition(":")[0]
        return UnreachableError(
            f"There is no host {host!r}.",
            which=address,
            next_step="Correct the address: --endpoint, or BASALT_ENDPOINT.",
        )
    if "wrong_version_number" in lower:
        # What answers is no door with TLS, and does not become one by waiting.
        return BasaltError(
            f"What answers at {address} does not seem to speak TLS.",
            code="UNAVAILABLE",
            which=address,
            next_step="Leave out --tls-ca and BASALT_TLS_CA for a door without TLS,"
            " or correct the address.",
        )
    if "ssl" in lower or "tls" in lower or "certificate" in lower:
        return UnreachableError(
            f"What answers at {address} does not prove that it is the platform.",
            which=address,
            next_step="Give the authority's certificate that the door has: BASALT_TLS_CA.",
        )
    return UnreachableError(
        f"The platform at {address} cannot be reached.",
        which=address,
        next_step="Start it with `basalt up`, or give its address in BASALT_ENDPOINT.",
    )
