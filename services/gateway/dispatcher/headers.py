"""Header blocks (RFC 7541) without state, so that a block's bytes are one dictionary look-up.

Both peers are told SETTINGS_HEADER_TABLE_SIZE=0. Once a peer has acknowledged that, each of its
blocks stands for itself: equal bytes are equal headers, on any connection. Until then a real
decoder with a dynamic table reads that connection's blocks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import hpack

from services.gateway.dispatcher.frames import ErrorCode, PeerError

Field = tuple[bytes, bytes]
Meaning = TypeVar("Meaning")

HEADER_LIST_BYTES_MAX = 65_536
BLOCKS_CACHED_MAX = 2_048
FIELDS_CACHED_MAX = 8_192
CACHED_BYTES_MAX = 1_024  # Longer blocks and fields are rare, and would make the caches large.

# A dynamic table size update to zero: due once where a peer announces less than the default.
TABLE_SIZE_ZERO = b"\x20"
TABLE_SIZE_DEFAULT = 4_096


class HeadersTooLongError(PeerError):
    """A block, or what it stands for, is longer than what we keep of one."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.ENHANCE_YOUR_CALM, "a header list is longer than its limit")


class HeaderReader(Generic[Meaning]):
    """Turns blocks into what they mean, and remembers blocks and fields that it has seen.

    One reader serves all connections of a kind. `interpret` must be a pure function of the fields:
    what it returns is shared by all requests whose header blocks are equal.
    """

    def __init__(self, interpret: Callable[[list[Field]], Meaning]) -> None:
        self._interpret = interpret
        self.blocks: dict[bytes, Meaning] = {}
        self._fields: dict[bytes, Field] = {}
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_LIST_BYTES_MAX)
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0

    def read(self, block: bytes) -> Meaning:
        """Reads a block that carries no state. Hot code looks into `blocks` first."""
        meaning = self.blocks.get(block)
        if meaning is None:
            meaning = self._interpret(self._decode(block))
            if len(block) <= CACHED_BYTES_MAX:
                if len(self.blocks) >= BLOCKS_CACHED_MAX:
                    self.blocks.clear()
                self.blocks[block] = meaning
        return meaning

    def read_with_state(self, block: bytes, decoder: hpack.Decoder) -> Meaning:
        """Reads a block that a peer wrote before it knew that we keep no dynamic table."""
        try:
            fields = [
                (bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)
            ]
        except (hpack.HPACKError, IndexError, ValueError) as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, "a header block is malformed") from error
        return self._interpret(fields)

    def _decode(self, block: bytes) -> list[Field]:
        # A trace header makes a whole block unique, yet all but one of its fields are well known.
        known = self._fields
        fields: list[Field] = []
        for raw in split_fields(block):
            field = known.get(raw)
            if field is None:
                field = self._decode_field(raw)
                if len(raw) <= CACHED_BYTES_MAX:
                    if len(known) >= FIELDS_CACHED_MAX:
                        known.clear()
                    known[raw] = field
            fields.append(field)
        if sum(len(name) + len(value) + 32 for name, value in fields) > HEADER_LIST_BYTES_MAX:
            raise HeadersTooLongError
        return fields

    def _decode_field(self, raw: bytes) -> Field:
        try:
            ((name, value),) = self._decoder.decode(raw, raw=True)
        except (hpack.HPACKError, IndexError, ValueError) as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, "a header field is malformed") from error
        return bytes(name), bytes(value)


def stateful_decoder() -> hpack.Decoder:
    return hpack.Decoder(max_header_list_size=HEADER_LIST_BYTES_MAX)


def split_fields(block: bytes) -> Iterable[bytes]:
    """Cuts a block into the bytes of its fields; table size updates are dropped."""
    position, end = 0, len(block)
    fields: list[bytes] = []
    try:
        while position < end:
            first = block[position]
            start = position
            if first & 0x80:  # An indexed field.
                _, position = _read_integer(block, position, 0x7F)
            elif first & 0xE0 == 0x20:  # A table size update; only zero keeps blocks stateless.
                size, position = _read_integer(block, position, 0x1F)
                if size:
                    raise PeerError(ErrorCode.COMPRESSION_ERROR, "a header table was not allowed")
                continue
            else:  # A literal, with (0x40) or without indexing.
                index, position = _read_integer(block, position, 0x3F if first & 0x40 else 0x0F)
                for _ in range(1 if index else 2):
                    length, position = _read_integer(block, position, 0x7F)
                    position += length
            if position > end:
                raise IndexError
            fields.append(block[start:position])
    except IndexError:
        raise PeerError(ErrorCode.COMPRESSION_ERROR, "a header block ends too early") from None
    return fields


def _read_integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    for shift in range(0, 35, 7):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise PeerError(ErrorCode.COMPRESSION_ERROR, "an integer of a header block is too long")


def _integer(value: int, mask: int, pattern: int) -> bytes:
    if value < mask:
        return bytes((pattern | value,))
    rest = bytearray((pattern | mask,))
    value -= mask
    while value >= 0x80:
        rest.append(value & 0x7F | 0x80)
        value >>= 7
    rest.append(value)
    return bytes(rest)


def literal(name: bytes, value: bytes) -> bytes:
    """One field that asks the peer to remember nothing."""
    return b"".join(
        (b"\x00", _integer(len(name), 0x7F, 0), name, _integer(len(value), 0x7F, 0), value)
    )


def block(fields: Mapping[bytes, bytes]) -> bytes:
    return b"".join(literal(name, value) for name, value in fields.items())


# Fields of the static table (RFC 7541, appendix A).
STATUS_200 = b"\x88"
METHOD_POST = b"\x83"
SCHEME_HTTP = b"\x86"
