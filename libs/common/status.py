"""Errors on the wire: ours become a google.rpc.Status, and a peer's status becomes ours again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from libs.common.errors import (
    BY_CODE,
    BasaltError,
    DeadlineError,
    DependencyError,
    InternalError,
)

ERROR_DOMAIN = "basalt"


def to_status(error: BasaltError) -> status_pb2.Status:
    """google.rpc.Status with an ErrorInfo: reason, which thing, what next, and if a retry helps."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=ERROR_DOMAIN,
        metadata={
            "which": error.which,
            "next_step": error.next_step,
            "retryable": str(error.retryable).lower(),
        },
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    code = getattr(grpc.StatusCode, error.code).value[0]
    return status_pb2.Status(code=code, message=str(error), details=[detail])


def from_call_error(error: grpc.RpcError, peer: str) -> BasaltError:
    """The error that another service answered, or that it could not be reached."""
    call = cast("grpc.aio.AioRpcError", error)
    kind = BY_CODE.get(call.code().name, InternalError)
    status = rpc_status.from_call(cast("Any", call))
    if status is not None:
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                what = status.message.removesuffix(info.metadata["next_step"]).strip()
                return kind(
                    what, which=info.metadata["which"], next_step=info.metadata["next_step"]
                )
    if kind in (DependencyError, DeadlineError) or call.code() is grpc.StatusCode.CANCELLED:
        # gRPC says this itself: the service is gone, or hangs, or ended the call as it stopped.
        what = "did not answer in time" if kind is DeadlineError else "cannot be reached"
        return DependencyError(
            f"The service {peer} {what}.",
            which=peer,
            next_step="Try again shortly; `basalt status` shows what is wrong.",
        )
    return kind(f"{peer}: {call.details() or call.code().name}", which=peer)


@contextmanager
def translated(peer: str) -> Iterator[None]:
    """Around calls to another service: its errors become ours again."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_call_error(error, peer) from error
