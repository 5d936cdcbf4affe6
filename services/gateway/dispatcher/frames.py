"""The frames of HTTP/2 (RFC 9113): their numbers, their errors, and how they are serialised."""

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

FRAME_HEADER_BYTES = 9
FRAME_BYTES_MAX = 16_384  # The protocol's default; we announce no more to either side.
WINDOW_BYTES_DEFAULT = 65_535
WINDOW_BYTES_MAX = 2**31 - 1
STREAM_ID_MAX = 2**31 - 1

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

# Length (upper 16 bits, lower 8 bits), type, flags, stream.
_FRAME_HEADER = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_WORD = struct.Struct(">I")
_TWO_WORDS = struct.Struct(">II")

unpack_header = _FRAME_HEADER.unpack_from


class ErrorCode(IntEnum):
    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class PeerError(Exception):
    """The peer broke the protocol: its connection gets a GOAWAY with `code` and is closed."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return _FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return header(kind, flags, stream_id, len(payload)) + payload


def headers(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """One HEADERS frame, followed by CONTINUATION frames where the block is long."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= FRAME_BYTES_MAX:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)]
    frames = [frame(HEADERS, flags, stream_id, parts[0])]
    frames += [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    frames.append(frame(CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(frames)


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(_SETTING.pack(name, value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def settings_acknowledgement() -> bytes:
    return frame(SETTINGS, ACK, 0)


def ping_acknowledgement(opaque: bytes) -> bytes:
    return frame(PING, ACK, 0, opaque)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def reset(stream_id: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def goaway(stream_id_last: int, code: ErrorCode, message: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(stream_id_last, code) + message.encode())


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    if len(payload) % _SETTING.size:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame is not made of 6-byte parts")
    return list(_SETTING.iter_unpack(payload))


def read_word(payload: bytes) -> int:
    """The one 32-bit number of a WINDOW_UPDATE or RST_STREAM frame."""
    if len(payload) != _WORD.size:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a frame of one word does not hold 4 bytes")
    return _WORD.unpack(payload)[0]


def read_goaway(payload: bytes) -> tuple[int, int]:
    """The last stream that the peer took up, and its error code."""
    if len(payload) < _TWO_WORDS.size:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY frame is shorter than 8 bytes")
    last, code = _TWO_WORDS.unpack_from(payload)
    return last & STREAM_ID_MAX, code


def without_padding(payload: bytes, flags: int, *, priority: bool) -> bytes:
    """Takes the padding (and, of HEADERS, the priority) off a payload."""
    start, padding = 0, 0
    if flags & PADDED:
        if not payload:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame is empty")
        start, padding = 1, payload[0]
    if priority and flags & HAS_PRIORITY:
        start += 5
    if start + padding > len(payload):
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "a frame's padding is longer than its payload")
    return payload[start : len(payload) - padding]
