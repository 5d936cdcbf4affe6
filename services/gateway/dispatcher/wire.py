"""Protobuf's wire format, as far as it is needed to find, cut and write fields.

https://protobuf.dev/programming-guides/encoding/
"""

GRPC_PREFIX_BYTES = 5  # A flag that says whether the message is compressed, and its length.

# Reading costs time by the field, not by the byte: these bound what one message can cost.
FIELDS_MAX = 1_024
TENSOR_FIELDS_MAX = 256


class MessageError(Exception):
    """The caller's message is malformed; the text tells the caller how."""


def varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def delimited(tag: int, value: bytes) -> bytes:
    return b"".join((bytes((tag,)), varint(len(value)), value))


def grpc_prefix(length: int) -> bytes:
    return b"\x00" + length.to_bytes(4, "big")


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise MessageError(f"a number at byte {position} does not end")


def _skip(data: bytes, tag: int, position: int, end: int) -> int:
    """Steps over a field that is not length-delimited."""
    wire_type = tag & 0x7
    if not tag >> 3:
        raise MessageError(f"field 0 at byte {position}")
    if wire_type == 0:
        _, position = read_varint(data, position, end)
    elif wire_type == 1:
        position += 8
    elif wire_type == 5:
        position += 4
    else:
        raise MessageError(f"wire type {wire_type} at byte {position}")
    if position > end:
        raise MessageError(f"field {tag >> 3} runs past the end")
    return position


def fields_of(
    data: bytes, start: int, end: int, limit: int = FIELDS_MAX
) -> list[tuple[int, int, int, int]]:
    """Each field as (tag, where the field begins, where its value begins, where it ends)."""
    fields: list[tuple[int, int, int, int]] = []
    position = start
    while position < end:
        if len(fields) >= limit:
            raise MessageError(f"more than {limit} fields in one message")
        begin = position
        tag = data[position]
        position += 1
        if tag >= 0x80:
            tag, position = read_varint(data, begin, end)
        if tag & 0x7 == 2:
            if position >= end:
                raise MessageError(f"field {tag >> 3} has no length")
            length = data[position]
            position += 1
            if length >= 0x80:
                length, position = read_varint(data, position - 1, end)
            value = position
            position += length
            if position > end:
                raise MessageError(f"field {tag >> 3} at byte {begin - start} runs past the end")
            if tag < 8:
                raise MessageError(f"field 0 at byte {begin - start}")
        else:
            value = position
            position = _skip(data, tag, position, end)
        fields.append((tag, begin, value, position))
    return fields
