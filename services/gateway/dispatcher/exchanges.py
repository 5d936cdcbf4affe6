"""Requests to Triton: what is known of each, and how each may end."""

from dataclasses import dataclass
from typing import Protocol

from services.gateway.dispatcher.calls import Call
from services.gateway.dispatcher.headers import Field
from services.gateway.dispatcher.merging import Lane
from services.gateway.dispatcher.queues import ModelQueue


class Exchange:
    """One request to Triton, for one call or, with a lane, for several."""

    __slots__ = ("batch", "body_bytes", "chunks", "lane", "message", "model", "rows", "status")

    def __init__(self, model: ModelQueue, batch: list[Call], lane: Lane | None, rows: int) -> None:
        self.model = model
        self.batch = batch
        self.lane = lane
        self.rows = rows
        self.chunks: list[bytes] = []
        self.body_bytes = 0
        self.status: int | None = None
        self.message = b""


class ExchangeEnds(Protocol):
    """Who is told how each exchange ended; exactly one of these for each that was sent."""

    def answered(self, exchange: Exchange, body: bytes) -> None: ...

    def failed(self, exchange: Exchange, code: int, message: str) -> None:
        """Triton refused it; the message is Triton's."""
        ...

    def not_taken(self, exchange: Exchange) -> None:
        """Triton has certainly not begun it: it may be sent again."""
        ...

    def lost(self, exchange: Exchange) -> None:
        """The connection broke; whether Triton ran it is not known."""
        ...

    def writable(self) -> None:
        """Requests may be sent again."""
        ...

    def interrupted(self) -> None:
        """There is no connection for now."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class AnswerHeaders:
    """What a header block of Triton says; the status comes with the last one."""

    http_ok: bool
    status: int | None
    message: bytes


def interpret_answer(fields: list[Field]) -> AnswerHeaders:
    values = dict(fields)
    status = values.get(b"grpc-status")
    return AnswerHeaders(
        values.get(b":status", b"200") == b"200",
        int(status) if status is not None and status.isdigit() else None,
        values.get(b"grpc-message", b""),
    )
