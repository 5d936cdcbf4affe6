import contextlib

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.dispatcher.calls import Trace, sampled_trace, timeout_s
from services.gateway.dispatcher.frames import PeerError
from services.gateway.dispatcher.headers import HeaderReader, literal, split_fields

FIELDS = st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300)))


@given(FIELDS, st.booleans())
def test_blocks_of_a_real_encoder_are_read(
    fields: list[tuple[bytes, bytes]], huffman: bool
) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(fields, huffman=huffman)

    reader = HeaderReader(lambda read: read)

    assert reader.read(block) == fields
    assert reader.read(block) == fields  # The second time it is a look-up.


@given(FIELDS)
def test_blocks_that_are_written_are_read_by_a_real_decoder(
    fields: list[tuple[bytes, bytes]],
) -> None:
    block = b"".join(literal(name, value) for name, value in fields)

    assert [tuple(field) for field in hpack.Decoder().decode(block, raw=True)] == fields


@given(st.binary(max_size=200))
def test_random_blocks_are_read_or_refused(block: bytes) -> None:
    reader = HeaderReader(list)
    with contextlib.suppress(PeerError):
        reader.read(block)


def test_a_dynamic_table_is_refused_and_an_empty_one_is_not() -> None:
    assert split_fields(b"\x20\x88") == [b"\x88"]
    with pytest.raises(PeerError, match="header table"):
        split_fields(b"\x3f\x01\x88")


def test_a_list_of_many_large_fields_is_refused() -> None:
    reader = HeaderReader(list)
    with pytest.raises(PeerError, match="longer than its limit"):
        reader.read(literal(b"name", b"v" * 600) * 120)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"5S", 5.0),
        (b"250m", 0.25),
        (b"2H", 7_200.0),
        (b"7u", 7e-6),
        (b"", None),
        (b"5", None),
        (b"-5S", None),
        (b"123456789S", None),
    ],
)
def test_timeouts(value: bytes, seconds: float | None) -> None:
    assert timeout_s(value) == pytest.approx(seconds)


def test_only_a_sampled_trace_counts() -> None:
    trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    context = f"00-{trace_id}-{parent_id}-".encode()

    assert sampled_trace(context + b"01") == Trace(trace_id, parent_id)
    assert sampled_trace(context + b"00") is None
    assert sampled_trace(context + b"zz") is None
    assert sampled_trace(b"") is None
