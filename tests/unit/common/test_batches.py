"""Batches of Kafka, whole and broken: what can be read is read, and the rest is named."""

from __future__ import annotations

import struct

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from libs.common import batches
from libs.common.batches import BATCH_BYTES_MAX, Opened, open_batches
from libs.common.unreadable import Unreadable, unreadable
from tests.support.batches import (
    ATTRIBUTES,
    CODECS,
    COUNT,
    LAST_OFFSET_DELTA,
    LENGTH,
    batch,
    changed,
    with_wild_header,
)

END = 1_000
HEADERS = [("ce_id", b"1")]


def opened(content: bytes, offset: int = 0, *, careful: bool = False) -> Opened:
    return open_batches(
        content, offset=offset, end=END, budget_bytes=BATCH_BYTES_MAX, careful=careful
    )


def read(content: bytes) -> list[tuple[int, bytes | None, Unreadable | None]]:
    """As the client reads what we hand on to it."""
    records = MemoryRecords(content)
    found = []
    while records.has_next():
        found += [
            (record.offset, record.value, unreadable(record.headers))
            for record in records.next_batch() or ()
        ]
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_batches_of_every_codec_are_opened(codec: str) -> None:
    content = batch([b"one", b"two"], codec) + batch([b"three" * 9_000], codec, base=2)

    found = opened(content)

    assert [(offset, value) for offset, value, _ in read(found.content)] == [
        (0, b"one"),
        (1, b"two"),
        (2, b"three" * 9_000),
    ]
    assert (found.unreadable, found.stuck) == ([], "")


def test_the_end_of_an_answer_may_lack_a_part_of_a_batch() -> None:
    content = batch([b"one"]) + batch([b"two"], base=1)[:-3]

    assert [offset for offset, *_ in read(opened(content).content)] == [0]


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "none"])
def test_what_is_too_large_when_decompressed_is_named_and_the_next_batch_read(codec: str) -> None:
    bomb = batch([bytes(BATCH_BYTES_MAX + 1)], codec)

    found = opened(bomb + batch([b"next"], base=1))

    (stand_in, (offset, value, gap)) = read(found.content)
    assert (stand_in[0], stand_in[2]) == (0, found.unreadable[0])
    assert f"over {BATCH_BYTES_MAX} bytes" in found.unreadable[0].detail
    assert stand_in[1] == bomb[: batches.UNREADABLE_BYTES_MAX]
    assert (offset, value, gap) == (1, b"next", None)


BROKEN = {
    "a flipped bit": lambda whole: changed(whole, len(whole) - 2, b"\x7f", resealed=False),
    "an unknown codec": lambda whole: changed(whole, ATTRIBUTES, struct.pack(">h", 7)),
    "no gzip": lambda whole: changed(whole, ATTRIBUTES, struct.pack(">h", 1)),
    "no snappy": lambda whole: changed(whole, ATTRIBUTES, struct.pack(">h", 2)),
    "no lz4": lambda whole: changed(whole, ATTRIBUTES, struct.pack(">h", 3)),
    "no zstd": lambda whole: changed(whole, ATTRIBUTES, struct.pack(">h", 4)),
    "too many records": lambda whole: changed(whole, COUNT, struct.pack(">i", 2**31 - 1)),
    "an end far away": lambda whole: changed(
        whole, LAST_OFFSET_DELTA, struct.pack(">i", 2**30), resealed=False
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_batch_that_cannot_be_opened_is_one_record_and_the_next_is_read(how: str) -> None:
    whole = batch([b"one", b"two", b"three"], base=5)
    broken = BROKEN[how](whole)

    found = opened(broken + batch([b"next"], base=8), offset=6)

    assert [(each.first, each.last) for each in found.unreadable] == [(6, 7)]
    (offset, value, gap), after = read(found.content)
    assert (offset, value, gap) == (7, broken, found.unreadable[0])
    assert after == (8, b"next", None)


def test_one_record_that_cannot_be_read_leaves_those_around_it() -> None:
    content = with_wild_header([b"one", b"two", b"three"], HEADERS, wild=1)

    found = opened(content, careful=True)

    assert [each[0] for each in read(found.content)] == [0, 1, 2]
    assert [value for _, value, gap in read(found.content) if gap is None] == [b"one", b"three"]
    assert [(each.first, each.last) for each in found.unreadable] == [(1, 1)]
    assert "not UTF-8" in found.unreadable[0].detail


def test_records_whose_lengths_do_not_hold_are_one() -> None:
    whole = batch([b"one", b"two", b"three"])
    at = whole.index(b"two") - 6  # The length of the second record.

    found = opened(changed(whole, at, b"\x7e"), careful=True)

    assert [value for _, value, gap in read(found.content) if gap is None] == [b"one"]
    assert [(each.first, each.last) for each in found.unreadable] == [(1, 2)]


def test_a_header_that_says_nothing_is_told() -> None:
    for broken in (
        changed(batch([b"one"]), LENGTH, struct.pack(">i", -1), resealed=False),
        changed(batch([b"one"]), LENGTH + 8, b"\x09", resealed=False),
    ):
        found = opened(broken)
        assert (found.content, found.unreadable) == (b"", [])
        assert "no header" in found.stuck


def test_what_is_over_the_budget_comes_another_time_but_something_comes() -> None:
    content = b"".join(batch([bytes(1_000)], "zstd", base=at) for at in range(10))

    found = open_batches(content, offset=0, end=END, budget_bytes=3_500)
    assert [offset for offset, *_ in read(found.content)] == [0, 1, 2]
    found = open_batches(content, offset=0, end=END, budget_bytes=0)
    assert [offset for offset, *_ in read(found.content)] == [0]


@given(st.data())
def test_whatever_happened_to_a_batch_nothing_is_raised_and_nothing_skipped(
    data: st.DataObject,
) -> None:
    codec = data.draw(st.sampled_from(list(CODECS)))
    whole = batch([b"one", b"two"], codec, headers=HEADERS)
    at = data.draw(st.integers(ATTRIBUTES, len(whole) - 1))
    to = data.draw(st.binary(min_size=1, max_size=3))[: len(whole) - at]
    broken = changed(whole, at, to, resealed=data.draw(st.booleans()))

    found = opened(broken + batch([b"next"], base=2), careful=True)

    offsets = [offset for offset, *_ in read(found.content)]
    assert offsets == sorted(offsets)
    assert offsets[-1] == 2
