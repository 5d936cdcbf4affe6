"""The socket that Envoy connects to: the server's role of HTTP/2, with gRPC's unary calls on it."""

import asyncio
from time import monotonic
from typing import Protocol

from services.gateway.dispatcher import frames
from services.gateway.dispatcher.calls import (
    TRAILERS_OK,
    Call,
    CallHeaders,
    Status,
    Token,
    error_block,
    sampled_trace,
    timeout_s,
)
from services.gateway.dispatcher.connection import (
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    Connection,
)
from services.gateway.dispatcher.frames import ErrorCode, PeerError
from services.gateway.dispatcher.headers import HEADER_LIST_BYTES_MAX, Field, HeaderReader

STREAMS_MAX = 2_048  # Concurrent calls of one connection.
CONNECTIONS_MAX = 256

_HEADERS_FRAME = bytes((frames.HEADERS, frames.END_HEADERS))
_TRAILERS_FRAME = frames.header(
    frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, len(TRAILERS_OK)
)[:5]


class CallReceiver(Protocol):
    """Who takes the calls."""

    def opened(self, call: Call) -> None:
        """The headers have come. The receiver may answer at once."""
        ...

    def grew(self, call: Call, data: bytes) -> None:
        """A part of the body has come, and more is to follow."""
        ...

    def completed(self, call: Call, data: bytes) -> None:
        """The last part of the body has come."""
        ...

    def abandoned(self, call: Call) -> None:
        """The caller has cancelled, or is gone."""
        ...


def interpret_call(fields: list[Field]) -> CallHeaders:
    values = dict(fields)
    tenants = [value for name, value in fields if name == b"x-basalt-tenant"]
    subject = values.get(b"x-basalt-subject", b"").decode(errors="replace")
    return CallHeaders(
        path=values.get(b":path", b""),
        # Envoy sets exactly one; several mean that somebody else had a say.
        tenant=tenants[0].decode(errors="replace") if len(tenants) == 1 else "",
        subject=subject,
        token=_token(values, subject),
        timeout_s=timeout_s(values.get(b"grpc-timeout", b"")),
        trace=sampled_trace(values.get(b"traceparent", b"")),
        encoding=values.get(b"grpc-encoding", b"identity"),
    )


def _token(values: dict[bytes, bytes], subject: str) -> Token | None:
    token_id = values.get(b"x-basalt-token-id")
    if token_id is None:
        return None
    generation = values.get(b"x-basalt-generation", b"0")
    tenant = values.get(b"x-basalt-tenant", b"").decode(errors="replace")
    return Token(
        id=token_id.decode(errors="replace"),
        login_id=values.get(b"x-basalt-login-id", b"").decode(errors="replace"),
        subject=f"{tenant}/{subject}",
        # One that is no number is no token of ours: as old as can be.
        generation=int(generation) if generation.isdigit() else 0,
    )


class EnvoyConnection(Connection[CallHeaders]):
    """The server's role on one connection."""

    preface = frames.PREFACE

    def __init__(
        self,
        reader: HeaderReader[CallHeaders],
        loop: asyncio.AbstractEventLoop,
        receiver: CallReceiver,
        connections: set["EnvoyConnection"],
    ) -> None:
        super().__init__(reader, loop)
        self._receiver = receiver
        self._connections = connections
        self.streams: dict[int, Call] = {}
        self._draining = False
        self._now = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._connections) >= CONNECTIONS_MAX:
            self.close(ErrorCode.ENHANCE_YOUR_CALM, f"more than {CONNECTIONS_MAX} connections")
            return
        self._connections.add(self)
        self.write(
            frames.settings(
                {
                    frames.HEADER_TABLE_SIZE: 0,
                    frames.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                    frames.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES_MAX,
                }
            )
        )
        self.write(frames.window_update(0, CONNECTION_WINDOW_BYTES - frames.WINDOW_BYTES_DEFAULT))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connections.discard(self)
        calls = list(self.streams.values())
        self.streams.clear()
        for call in calls:
            self._receiver.abandoned(call)

    def data_received(self, data: bytes) -> None:
        self._now = monotonic()
        super().data_received(data)

    def drain(self) -> None:
        """Takes no new calls; those that are open may end."""
        if not self._draining and not self.closed:
            self._draining = True
            self.write(frames.goaway(self.stream_id_last, ErrorCode.NO_ERROR))

    # What comes from Envoy.

    def knows_stream(self, stream_id: int) -> bool:
        return stream_id in self.streams or stream_id in self._bodies

    def headers_received(self, stream_id: int, meaning: CallHeaders, end_stream: bool) -> None:
        if stream_id <= self.stream_id_last:
            self._trailers_received(stream_id, end_stream)
            return
        if not stream_id & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} is not a client's")
        if self._draining:
            return  # The GOAWAY told Envoy that this stream is not taken.
        self.stream_id_last = stream_id
        if len(self.streams) + len(self._bodies) >= STREAMS_MAX:
            self.write(frames.reset(stream_id, ErrorCode.REFUSED_STREAM))
            return
        call = Call(self, stream_id, meaning, self._now)
        self.streams[stream_id] = call
        self._receiver.opened(call)
        if end_stream and stream_id in self.streams:
            self._complete(call, b"")

    def _trailers_received(self, stream_id: int, end_stream: bool) -> None:
        call = self.streams.get(stream_id)
        if not stream_id or not end_stream:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} was opened before")
        if call is not None:
            self._complete(call, b"")

    def body_received(self, stream_id: int, data: bytes, length: int, end_stream: bool) -> None:
        call = self.streams.get(stream_id)
        if call is None:
            self._check_not_idle(stream_id)
        elif end_stream:
            self._complete(call, data)
        elif call.complete:
            raise PeerError(ErrorCode.STREAM_CLOSED, f"stream {stream_id} had ended")
        else:
            call.unacknowledged += length
            if call.unacknowledged > STREAM_WINDOW_BYTES // 2:
                if call.unacknowledged > STREAM_WINDOW_BYTES:
                    raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a window was exceeded")
                self.write(frames.window_update(stream_id, call.unacknowledged))
                call.unacknowledged = 0
            if data:
                self._receiver.grew(call, data)

    def _complete(self, call: Call, data: bytes) -> None:
        if call.complete:
            raise PeerError(ErrorCode.STREAM_CLOSED, f"stream {call.stream_id} had ended")
        call.complete = True
        self._receiver.completed(call, data)

    def reset_received(self, stream_id: int, code: int) -> None:
        call = self.streams.pop(stream_id, None)
        if call is not None:
            self._receiver.abandoned(call)

    def goaway_received(self, stream_id_last: int, code: int) -> None:
        """Envoy opens no more streams and closes the connection itself when the last has ended."""

    # What goes to Envoy.

    def answer(self, call: Call, opening: bytes, lead: bytes, raw: bytes) -> None:
        """Answers with the body `lead` + `raw`.

        `opening` is the answer's header block and the first five bytes of its DATA frame.
        """
        stream_id = call.stream_id
        del self.streams[stream_id]
        length = len(lead) + len(raw)
        if self.can_write_at_once(length):
            self.send_window -= length
            stream = stream_id.to_bytes(4, "big")
            self.write(
                b"".join(
                    (
                        (len(opening) - 5).to_bytes(3, "big"),
                        _HEADERS_FRAME,
                        stream,
                        opening,
                        stream,
                        lead,
                        raw,
                        _TRAILERS_FRAME,
                        stream,
                        TRAILERS_OK,
                    )
                )
            )
            if self._credit:
                self.forget_stream(stream_id)
        else:
            self.write_headers(stream_id, opening[:-5], end_stream=False)
            trailers = frames.headers(stream_id, TRAILERS_OK, end_stream=True)
            self.write_body(stream_id, lead + raw, trailers)

    def refuse(self, call: Call, code: Status | int, message: str) -> None:
        if self.streams.pop(call.stream_id, None) is None:
            return
        self.write_headers(call.stream_id, error_block(code, message), end_stream=True)
        if not call.complete:  # The rest of the body is not wanted.
            self.write(frames.reset(call.stream_id, ErrorCode.NO_ERROR))
        self.forget_stream(call.stream_id)
