"""Opens what Kafka answers to a fetch, batch by batch, under limits and without ever failing.

    decompression   a batch becomes at most BATCH_BYTES_MAX bytes, whatever it claims; what is more
                    is never written to memory
    isolation       a batch or record that cannot be opened becomes one record that says so, over
                    the same offsets; what is around it stays as it is

The client's own decoder raises out of the fetch loop instead, and with it stops every partition.
Format: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import cramjam
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c, decode_varint, encode_varint

from libs.common.unreadable import Unreadable

BATCH_BYTES_MAX = 64 * 1024 * 1024
# Each becomes an object of some hundred bytes, however small it is in its batch.
BATCH_RECORDS_MAX = 250_000
# What is kept of a batch or record that could not be opened.
UNREADABLE_BYTES_MAX = 1024 * 1024
TIMESTAMP_MS_MAX = 4_102_444_800_000  # The year 2100.
# A batch larger than this, once opened, is handed on alone: it is not copied once more.
LARGE_BYTES = 4 * 1024 * 1024

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_COUNTED_FROM = 12  # `length` counts what follows it.
_CRC_COVERS_FROM = 21
_MAGIC = 2
# It takes any bytes.
_varint = cast("Callable[[bytes, int], tuple[int, int]]", decode_varint)
_CODEC_MASK, _LOG_APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20
_CODECS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
# What the codec library says when what it decompresses does not fit.
FULL = "whole buffer"
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


class UnreadableBatchError(Exception):
    """Why a batch cannot be opened, as a sentence."""


class Header(NamedTuple):
    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1


@dataclass(slots=True)
class Opened:
    """A partition's batches without compression, and what was found on the way.

    epochs      (first offset, leader epoch) of each batch, in order
    unreadable  what a stand-in was put in the place of
    stuck       why nothing behind the last batch can be found; "" is the rule
    """

    content: bytes = b""
    epochs: list[tuple[int, int]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    stuck: str = ""


def open_batches(
    content: bytes, *, offset: int, end: int, budget_bytes: int, careful: bool = False
) -> Opened:
    """`content` as it was fetched from `offset` of a log that ends before `end`.

    At most `budget_bytes` come out, but always the first batch; what is left out is fetched again.
    `careful` looks at each record too, at about the cost of reading it.
    """
    opened = Opened()
    pieces: list[bytes] = []
    size = 0
    for header, batch, following in _batches(content, opened):
        limit = BATCH_BYTES_MAX if not pieces else min(BATCH_BYTES_MAX, budget_bytes - size)
        try:
            piece, found = _open(header, batch, limit, careful, last_chance=not pieces)
        except _OverBudget:
            break
        except UnreadableBatchError as error:
            piece, found = _stand_in(header, batch, following, offset, end, str(error))
        if pieces and len(piece) > LARGE_BYTES:
            break
        pieces.append(piece)
        size += len(piece)
        opened.epochs.append((header.base_offset, header.leader_epoch))
        opened.unreadable += found
        if size > LARGE_BYTES and len(piece) > LARGE_BYTES:
            break
    opened.content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return opened


class _OverBudget(Exception):  # noqa: N818 - it is no error: the batch comes another time.
    pass


def _batches(content: bytes, opened: Opened) -> Iterator[tuple[Header, memoryview, int | None]]:
    """Each whole batch, with the offset at which the next one begins where that is known."""
    view, at, whole = memoryview(content), 0, len(content)
    while whole - at >= _HEADER.size:
        header = Header._make(_HEADER.unpack_from(content, at))
        if header.length < _HEADER.size - _LENGTH_COUNTED_FROM or header.magic != _MAGIC:
            opened.stuck = (
                f"the batch at offset {header.base_offset} has no header that can be read"
            )
            return
        stop = at + _LENGTH_COUNTED_FROM + header.length
        if stop > whole:
            return  # The rest of it did not fit into the answer.
        following = struct.unpack_from(">q", content, stop)[0] if whole - stop >= 8 else None
        yield header, view[at:stop], following
        at = stop


def _open(
    header: Header, batch: memoryview, limit: int, careful: bool, last_chance: bool
) -> tuple[bytes, list[Unreadable]]:
    if calc_crc32c(batch[_CRC_COVERS_FROM:].tobytes()) != header.crc:
        raise UnreadableBatchError("Its checksum is not that of its bytes: it was damaged.")
    if header.records > BATCH_RECORDS_MAX:
        raise UnreadableBatchError(
            f"It holds {header.records} records; a batch has at most {BATCH_RECORDS_MAX}."
        )
    codec = header.attributes & _CODEC_MASK
    plain = batch.tobytes() if codec == 0 else _decompressed(header, batch, codec, limit)
    if plain is None:
        if not last_chance:
            raise _OverBudget
        raise UnreadableBatchError(
            f"Its {_CODECS.get(codec, '')} content of {len(batch)} bytes is over"
            f" {BATCH_BYTES_MAX} bytes when decompressed. Send smaller batches."
        )
    if not careful:
        return plain, []
    if header.attributes & _CONTROL and _fault(header, plain[_HEADER.size :]):
        raise UnreadableBatchError("It ends a transaction, and does not say how.")
    return _looked_through(header, plain)


def _decompressed(header: Header, batch: memoryview, codec: int, limit: int) -> bytes | None:
    """The batch without compression; None when that takes more than `limit` bytes."""
    if codec not in _CODECS:
        raise UnreadableBatchError(f"Its compression {codec} is not known.")
    try:
        content = decompressed(_CODECS[codec], batch[_HEADER.size :], limit)
    except (cramjam.DecompressionError, ValueError, struct.error) as error:
        raise UnreadableBatchError(
            f"Its {_CODECS[codec]} content cannot be decompressed: {str(error)[:200]}."
        ) from error
    if content is None:
        return None
    with content, memoryview(content.buffer) as buffer:
        return b"".join((_plain_header(header, content.size), buffer[: content.size]))


class _Content:
    """Decompressed bytes in memory that is taken only as it is written to."""

    def __init__(self, limit: int) -> None:
        self.buffer = mmap.mmap(-1, limit)
        self.size = 0

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *_: object) -> None:
        self.buffer.close()


def decompressed(codec: str, payload: memoryview, limit: int) -> _Content | None:
    """At most `limit` bytes; None when it would be more. Raises for what is not of the codec."""
    content = _Content(max(limit, 1))
    try:
        if codec == "snappy":
            content.size = _unsnap(payload, content.buffer, limit)
        else:
            content.size = getattr(cramjam, codec).decompress_into(payload, content.buffer)
    except _OverBudget:
        content.buffer.close()
        return None
    except cramjam.DecompressionError as error:
        content.buffer.close()
        if FULL in str(error):
            return None
        raise
    return content


def _unsnap(payload: memoryview, buffer: mmap.mmap, limit: int) -> int:
    """Both ways in which snappy travels: one block, or Java's stream of blocks."""
    blocks = [payload]
    if payload[: len(_XERIAL)] == _XERIAL:
        blocks, at = [], _XERIAL_HEADER_BYTES
        while at < len(payload):
            (length,) = struct.unpack_from(">I", payload, at)
            blocks.append(payload[at + 4 : at + 4 + length])
            at += 4 + length
    if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > limit:
        raise _OverBudget
    size = 0
    with memoryview(buffer) as view:
        for block in blocks:
            size += cramjam.snappy.decompress_raw_into(block, view[size:])
    return size


def _plain_header(header: Header, size: int, **changes: Any) -> bytes:
    """Of a batch whose `size` bytes of records are not compressed; nobody asks for its checksum."""
    length = _HEADER.size - _LENGTH_COUNTED_FROM + size
    attributes = header.attributes & ~_CODEC_MASK
    return _HEADER.pack(*header._replace(length=length, attributes=attributes, crc=0, **changes))


# Stand-ins.


def _stand_in(
    header: Header, batch: memoryview, following: int | None, offset: int, end: int, why: str
) -> tuple[bytes, list[Unreadable]]:
    """One record over all offsets of a batch that cannot be opened, with the bytes that it has."""
    next_offset = header.next_offset
    if not header.base_offset < next_offset <= end:
        # What the header says of its length was damaged too.
        next_offset = header.base_offset + 1
    if following is not None and header.base_offset < following <= end:
        next_offset = following
    delta = next_offset - 1 - header.base_offset
    about = Unreadable(max(offset, header.base_offset), next_offset - 1, why)
    record = _stand_in_record(delta, batch, about)
    alone = header._replace(
        attributes=header.attributes & _LOG_APPEND_TIME,
        last_offset_delta=delta,
        records=1,
        # They too may be damaged.
        first_timestamp=min(max(header.first_timestamp, 0), TIMESTAMP_MS_MAX),
        max_timestamp=min(max(header.max_timestamp, 0), TIMESTAMP_MS_MAX),
    )
    # Of no producer, or it could be left out as part of a transaction that was aborted.
    head = _plain_header(alone, len(record), producer_id=-1, producer_epoch=-1, base_sequence=-1)
    return head + record, [about]


def _stand_in_record(delta: int, content: memoryview, about: Unreadable) -> bytes:
    body = content[:UNREADABLE_BYTES_MAX].tobytes()
    name, value = about.header()
    record = bytearray(b"\x00")  # No attributes; then the time, as of the batch's first record.
    for number in (0, delta, -1, len(body)):
        encode_varint(number, record.append)
    record += body
    encode_varint(1, record.append)
    encode_varint(len(name), record.append)
    record += name.encode()
    encode_varint(len(value), record.append)
    record += value
    whole = bytearray()
    encode_varint(len(record), whole.append)
    return bytes(whole + record)


def _looked_through(header: Header, plain: bytes) -> tuple[bytes, list[Unreadable]]:
    """The batch itself when each of its records can be read, else with stand-ins for the others."""
    newest = header.base_offset - 1
    try:
        for record in DefaultRecordBatch(plain):
            if not newest < record.offset < header.next_offset:
                return _mended(header, plain)
            newest = record.offset
    except Exception:
        return _mended(header, plain)
    return plain, []


def _mended(header: Header, plain: bytes) -> tuple[bytes, list[Unreadable]]:
    kept = bytearray()
    found: list[Unreadable] = []
    at, count, delta = _HEADER.size, 0, -1
    while at < len(plain) and count < header.records:
        try:
            length, begin = _varint(plain, at)
            stop = begin + length
            if length <= 0 or stop > len(plain):
                raise ValueError("a record reaches beyond its batch")
            before, delta = delta, _offset_delta(plain, begin)
            if not before < delta <= header.last_offset_delta:
                delta = before
                raise ValueError("a record has an offset that cannot be its own")
        except (ValueError, IndexError) as error:
            # Where the next record begins is not known any more: all that is left is one.
            first = header.base_offset + min(delta + 1, header.last_offset_delta)
            delta = header.last_offset_delta
            about = Unreadable(first, header.base_offset + delta, f"Its records end in: {error}.")
            kept += _stand_in_record(delta, memoryview(plain)[at:], about)
            found.append(about)
            count += 1
            break
        why = _fault(header, plain[at:stop])
        if why:
            place = header.base_offset + delta
            about = Unreadable(place, place, why)
            kept += _stand_in_record(delta, memoryview(plain)[at:stop], about)
            found.append(about)
        else:
            kept += plain[at:stop]
        at, count = stop, count + 1
    return _plain_header(header, len(kept), records=count) + bytes(kept), found


def _offset_delta(plain: bytes, begin: int) -> int:
    _, at = _varint(plain, begin + 1)  # Its time.
    delta, _ = _varint(plain, at)
    return delta


def _fault(header: Header, record: bytes) -> str:
    """Why this one record cannot be read; "" when it can."""
    try:
        for _ in DefaultRecordBatch(_plain_header(header, len(record), records=1) + record):
            pass
    except UnicodeDecodeError:
        return "The name of one of its headers is not UTF-8."
    except Exception as error:
        return f"It is no record: {str(error)[:200] or type(error).__name__}."
    return ""
