"""One HTTP/2 connection, either role: frames in, frames out, flow control both ways.

It speaks what Envoy and Triton speak and checks what it relies on; a peer that breaks the protocol
gets a GOAWAY and is cut off. `server.py` and `upstream.py` add what a stream means.
"""

import asyncio
from typing import Generic, cast

from services.gateway.dispatcher import frames
from services.gateway.dispatcher.frames import ErrorCode, PeerError
from services.gateway.dispatcher.headers import (
    TABLE_SIZE_DEFAULT,
    TABLE_SIZE_ZERO,
    HeaderReader,
    HeadersTooLongError,
    Meaning,
    stateful_decoder,
)

# What we grant a peer to send before we answer with a WINDOW_UPDATE.
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
STREAM_WINDOW_BYTES = 1024 * 1024

HEADER_BLOCK_BYTES_MAX = 65_536
SEND_FRAME_BYTES_MAX = 1024 * 1024  # Larger frames gain nothing, whatever the peer allows.
# A peer that makes us write this much without reading it is not a peer worth keeping.
UNREAD_BYTES_MAX = 64 * 1024 * 1024


class OutgoingBody:
    """What is left to send of a message. `tail` is the frame after it; without, DATA ends it."""

    __slots__ = ("position", "rest", "tail")

    def __init__(self, rest: memoryview, tail: bytes | None) -> None:
        self.rest = rest
        self.position = 0
        self.tail = tail


class Connection(asyncio.Protocol, Generic[Meaning]):
    """The part of HTTP/2 that both roles share. All methods run on the event loop's thread."""

    preface = b""  # What the peer must send first.

    def __init__(
        self,
        reader: HeaderReader[Meaning],
        loop: asyncio.AbstractEventLoop,
        too_long: Meaning | None = None,
    ) -> None:
        """`too_long`: what headers beyond their limit mean; without it they end the connection."""
        self._reader = reader
        self._too_long = too_long
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._awaited_preface = self.preface
        self._rest = b""
        self._greeted = False
        self.closed = False
        # Reading.
        self._decoder = stateful_decoder()
        self._stateless = False
        self._continued: tuple[int, bool] | None = None
        self._block = b""
        self._receive_window = CONNECTION_WINDOW_BYTES
        self.stream_id_last = 0
        # Writing.
        self._out: list[bytes | memoryview] = []
        self._out_is_large = False
        self._flush_planned = False
        self._paused = False
        self._table_update = b""
        self.send_window = frames.WINDOW_BYTES_DEFAULT
        self.peer_window_initial = frames.WINDOW_BYTES_DEFAULT
        self.peer_frame_bytes_max = frames.FRAME_BYTES_MAX
        self.peer_streams_max = 2**31 - 1
        self._credit: dict[int, int] = {}  # Stream: what WINDOW_UPDATEs added less what was sent.
        self._bodies: dict[int, OutgoingBody] = {}

    # What a role adds.

    def headers_received(self, stream_id: int, meaning: Meaning, end_stream: bool) -> None:
        raise NotImplementedError

    def body_received(self, stream_id: int, data: bytes, length: int, end_stream: bool) -> None:
        """`length` counts the padding too: it is what flow control counts."""
        raise NotImplementedError

    def reset_received(self, stream_id: int, code: int) -> None:
        raise NotImplementedError

    def goaway_received(self, stream_id_last: int, code: int) -> None:
        raise NotImplementedError

    def settings_received(self) -> None:
        """Called after each SETTINGS frame of the peer."""

    def knows_stream(self, stream_id: int) -> bool:
        raise NotImplementedError

    # Reading.

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        if self._rest:
            data = self._rest + data
        try:
            used = self._read_frames(data)
        except PeerError as error:
            self.close(error.code, str(error))
            return
        self._rest = data[used:] if used < len(data) else b""

    def _read_preface(self, data: bytes) -> int:
        awaited = self._awaited_preface
        if not data.startswith(awaited):
            if awaited.startswith(data):
                return 0
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "this socket speaks HTTP/2 only")
        self._awaited_preface = b""
        return len(awaited)

    def _read_frames(self, data: bytes) -> int:
        """Reads all whole frames; returns how many bytes they were."""
        position = 0
        if self._awaited_preface:
            position = self._read_preface(data)
            if not position:
                return 0
        end = len(data)
        last_start = end - frames.FRAME_HEADER_BYTES
        unpack_header = frames.unpack_header
        while position <= last_start:
            upper, lower, kind, flags, stream_id = unpack_header(data, position)
            length = upper << 8 | lower
            if length > frames.FRAME_BYTES_MAX:
                raise PeerError(
                    ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes is too long"
                )
            start = position + 9
            position = start + length
            if position > end:
                return start - 9
            if self._continued is not None or not self._greeted:
                self._check_order(kind, flags, stream_id)
            if kind == 0:
                self._receive_window -= length
                if self._receive_window < CONNECTION_WINDOW_BYTES // 2:
                    self._widen_connection()
                payload = data[start:position]
                if flags & 0x8:
                    payload = frames.without_padding(payload, flags, priority=False)
                self.body_received(stream_id, payload, length, flags & 0x1 == 1)
            elif kind == 1 and flags & 0x2C == 0x4:  # Whole, without padding or priority.
                block = data[start:position]
                meaning = self._reader.blocks.get(block) if self._stateless else None
                if meaning is None:
                    meaning = self._read_block(block)
                self.headers_received(stream_id, meaning, flags & 0x1 == 1)
            else:
                self._read_control(kind, flags, stream_id & 0x7FFFFFFF, data[start:position])
            if self.closed:
                return end
        return position

    def _check_order(self, kind: int, flags: int, stream_id: int) -> None:
        if not self._greeted:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._greeted = True
        if self._continued is not None and (
            kind != frames.CONTINUATION or stream_id != self._continued[0]
        ):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")

    def _widen_connection(self) -> None:
        if self._receive_window < 0:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window was exceeded")
        increment = CONNECTION_WINDOW_BYTES - self._receive_window
        self._receive_window = CONNECTION_WINDOW_BYTES
        self.write(frames.window_update(0, increment))

    def _read_block(self, block: bytes) -> Meaning:
        if self._too_long is not None and len(block) > HEADER_BLOCK_BYTES_MAX:
            return self._too_long
        if self._stateless:
            try:
                return self._reader.read(block)
            except HeadersTooLongError:
                if self._too_long is None:
                    raise
                return self._too_long
        return self._reader.read_with_state(block, self._decoder)

    def _read_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        match kind:
            case frames.HEADERS:
                payload = frames.without_padding(payload, flags, priority=True)
                self._read_headers(stream_id, flags, payload)
            case frames.CONTINUATION:
                self._read_continuation(stream_id, flags, payload)
            case frames.RST_STREAM:
                code = frames.read_word(payload)
                self._check_not_idle(stream_id)
                self.reset_received(stream_id, code)
                self.forget_stream(stream_id)
            case frames.SETTINGS:
                self._read_settings(flags, stream_id, payload)
            case frames.PING:
                if stream_id or len(payload) != 8:
                    raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a PING frame is malformed")
                if not flags & frames.ACK:
                    self.write(frames.ping_acknowledgement(payload))
            case frames.GOAWAY:
                last, code = frames.read_goaway(payload)
                self.goaway_received(last, code)
            case frames.WINDOW_UPDATE:
                self._read_window_update(stream_id, frames.read_word(payload))
            case frames.PUSH_PROMISE:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE was not allowed")
            case _:
                pass  # PRIORITY is advice, and unknown frames are to be ignored.

    def _read_headers(self, stream_id: int, flags: int, block: bytes) -> None:
        if flags & frames.END_HEADERS:
            self.headers_received(stream_id, self._read_block(block), bool(flags & 0x1))
        else:
            self._continued = (stream_id, bool(flags & frames.END_STREAM))
            self._block = block

    def _read_continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        if self._continued is None:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION continues nothing")
        # An empty CONTINUATION makes no progress: an endless row of them would hold us busy.
        if not payload and not flags & frames.END_HEADERS:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a CONTINUATION frame is empty")
        # Only a block without state can be left unread, and only so much of one is kept.
        if len(self._block) <= HEADER_BLOCK_BYTES_MAX:
            self._block += payload
        if len(self._block) > HEADER_BLOCK_BYTES_MAX and not (self._stateless and self._too_long):
            raise HeadersTooLongError
        if flags & frames.END_HEADERS:
            end_stream, block = self._continued[1], self._block
            self._continued, self._block = None, b""
            self.headers_received(stream_id, self._read_block(block), end_stream)

    def _check_not_idle(self, stream_id: int) -> None:
        if not stream_id or stream_id > self.stream_id_last:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} was never opened")

    def _read_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id or (flags & frames.ACK and payload):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a SETTINGS frame is malformed")
        if flags & frames.ACK:
            self._stateless = True
            return
        for name, value in frames.read_settings(payload):
            match name:
                case frames.HEADER_TABLE_SIZE if value < TABLE_SIZE_DEFAULT:
                    self._table_update = TABLE_SIZE_ZERO
                case frames.INITIAL_WINDOW_SIZE:
                    if value > frames.WINDOW_BYTES_MAX:
                        raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
                    self.peer_window_initial = value
                case frames.MAX_FRAME_SIZE:
                    if not frames.FRAME_BYTES_MAX <= value < 2**24:
                        raise PeerError(ErrorCode.PROTOCOL_ERROR, "a frame size is out of range")
                    self.peer_frame_bytes_max = min(value, SEND_FRAME_BYTES_MAX)
                case frames.MAX_CONCURRENT_STREAMS:
                    self.peer_streams_max = value
                case _:
                    pass
        self.write(frames.settings_acknowledgement())
        self.settings_received()
        self._send_bodies()

    def _read_window_update(self, stream_id: int, increment: int) -> None:
        increment &= frames.WINDOW_BYTES_MAX
        if not increment:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a window was updated by nothing")
        if stream_id == 0:
            self.send_window += increment
            if self.send_window > frames.WINDOW_BYTES_MAX:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
        else:
            self._check_not_idle(stream_id)
            if not self.knows_stream(stream_id):
                return
            credit = self._credit.get(stream_id, 0) + increment
            if credit + self.peer_window_initial > frames.WINDOW_BYTES_MAX:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            self._credit[stream_id] = credit
        if self._bodies:
            self._send_bodies()

    # Writing.

    def write(self, data: bytes | memoryview) -> None:
        """Queues bytes; all that one turn of the loop queues leaves in one write."""
        self._out.append(data)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self.flush)

    def write_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        if self._table_update:
            block, self._table_update = self._table_update + block, b""
        self.write(frames.headers(stream_id, block, end_stream=end_stream))

    def flush(self) -> None:
        self._flush_planned = False
        out = self._out
        if not out:
            return
        self._out = []
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._out_is_large:  # Joining would copy a large body once more.
            self._out_is_large = bool(self._bodies)
            transport.writelines(out)
        else:
            transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._paused and transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            transport.abort()

    def can_write_at_once(self, length: int) -> bool:
        """Whether one DATA frame on a stream that has sent nothing yet may leave right now."""
        return (
            length <= self.send_window
            and length <= self.peer_window_initial
            and length <= self.peer_frame_bytes_max
            and not self._bodies
            and not self._paused
            and not self._table_update
        )

    def write_body(self, stream_id: int, body: bytes, tail: bytes | None) -> None:
        """Sends a body as far as the peer's windows go, and the rest when they open."""
        self._bodies[stream_id] = OutgoingBody(memoryview(body), tail)
        self._out_is_large = True
        self._send_bodies()

    def _send_bodies(self) -> None:
        if self._paused:
            return
        for stream_id, body in list(self._bodies.items()):
            self._send_body(stream_id, body)
            if self._paused:
                return

    def _send_body(self, stream_id: int, body: OutgoingBody) -> None:
        size = len(body.rest)
        while True:
            credit = self._credit.get(stream_id, 0)
            left = size - body.position
            part = min(
                left, self.send_window, self.peer_window_initial + credit, self.peer_frame_bytes_max
            )
            if part <= 0 < left:
                return
            done = part == left
            ends = done and body.tail is None
            self.write(frames.header(frames.DATA, int(ends), stream_id, part))
            self.write(body.rest[body.position : body.position + part])
            body.position += part
            self.send_window -= part
            if done:
                del self._bodies[stream_id]
                if body.tail is not None:
                    self.write(body.tail)
                self._credit.pop(stream_id, None)
                return
            self._credit[stream_id] = credit - part

    def forget_stream(self, stream_id: int) -> None:
        """Drops what is kept of a stream for sending; its unsent bytes are never sent."""
        if self._credit:
            self._credit.pop(stream_id, None)
        if self._bodies:
            self._bodies.pop(stream_id, None)

    # The transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit.

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._out.clear()
        self._bodies.clear()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send_bodies()

    def close(self, code: ErrorCode, message: str = "") -> None:
        if self.closed:
            return
        self.write(frames.goaway(self.stream_id_last, code, message))
        self.flush()
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes without waiting for the peer to read what was written."""
        if self._transport is not None:
            self._transport.abort()
