"""Rows are what was sent: no key lost, no time guessed, no event from the future that wins."""

from __future__ import annotations

import io
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInputError
from services.ingest.core import bodies
from services.ingest.core.moments import MomentError, is_plain, moment
from services.ingest.core.uploads import Summary
from tests.support.upstream import NOON_MS, TENANT, Ingest, Record, headers, record, row

DAY_MS = 86_400_000
BERLIN = "Europe/Berlin"
TIMES = """\
name: scans
columns:
  - {name: at, type: timestamp%s}
"""


# Keys.

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, VALUE, max_size=5), st.booleans())
def test_what_has_every_key_once_is_read(value: dict[str, Any], ascii_: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_).encode()
    assert bodies.parse(body) == orjson.loads(body)


@given(st.lists(st.tuples(TEXT, VALUE), min_size=1, max_size=4), st.integers(0, 3), st.booleans())
def test_a_key_that_is_there_twice_is_a_fault_however_deep(
    pairs: list[tuple[str, Any]], depth: int, ascii_: bool
) -> None:
    pairs = [*pairs, pairs[0]]
    shown = ", ".join(
        f"{json.dumps(name, ensure_ascii=ascii_)}: {json.dumps(value)}" for name, value in pairs
    )
    body = ('{"a": [' * depth + "{" + shown + "}" + "]}" * depth).encode()
    with pytest.raises(orjson.JSONDecodeError, match="twice"):
        bodies.parse(body)


async def test_such_a_record_is_held_by_every_way_in(ingest: Ingest) -> None:
    twice = orjson.dumps(row()).replace(b'"scan-000000"', b'"a","scan":"b"')

    async def messages() -> AsyncIterator[list[bytes]]:
        yield [twice]

    async def parts() -> AsyncIterator[bytes]:
        yield twice

    await ingest.uploads.take_records(TENANT, "scans", "records", "ada", messages())
    await ingest.uploads.take_file(TENANT, "scans", "file", "ada", "json lines", parts())
    await ingest.take([Record(0, twice, headers("event"))])
    held = await ingest.held()
    assert [each.record.reason for each in held] == ["unparsable"] * 3
    assert all("'scan' twice" in each.record.detail for each in held)
    assert [each.record.body for each in held] == [twice] * 3


async def test_a_header_that_says_what_it_is_twice_is_a_fault(ingest: Ingest) -> None:
    sent = [
        Record(0, orjson.dumps(row(0)), [*headers("a"), ("ce_id", b"b")]),
        Record(1, orjson.dumps(row(1)), [*headers("c"), ("baggage", b"1"), ("baggage", b"2")]),
    ]
    await ingest.take(sent)
    (held,) = await ingest.held()
    assert "'ce_id' is there twice" in held.record.detail


# Times.


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("2026-01-01T12:00:00Z", "", "2026-01-01T12:00:00+00:00"),
        ("2026-01-01T12:00:00+02:00", BERLIN, "2026-01-01T10:00:00+00:00"),
        ("2026-01-01T12:00:00", BERLIN, "2026-01-01T11:00:00+00:00"),
        ("2026-07-01", BERLIN, "2026-06-30T22:00:00+00:00"),
        ("2026-01-01T12:00:00.123456000Z", "", "2026-01-01T12:00:00.123456+00:00"),
    ],
)
def test_a_moment_is_what_it_says_or_what_its_column_says(text: str, zone: str, utc: str) -> None:
    assert moment(text, zone).astimezone(UTC).isoformat() == utc


@pytest.mark.parametrize(
    ("text", "zone", "why"),
    [
        ("2026-01-01T12:00:00", "", "no offset"),
        ("2026-01-01", "", "no offset"),
        ("2026-01-01T12:00:00.1234567Z", "", "finer than a microsecond"),
        ("2026-01-01T12:00:00.000000001", BERLIN, "finer than a microsecond"),
        ("2026-03-29T02:30:00", BERLIN, "no clock in Europe/Berlin showed"),
        ("2026-10-25T02:30:00", BERLIN, "showed twice"),
        ("yesterday", BERLIN, "no time"),
        (17, BERLIN, "no text"),
    ],
)
def test_what_is_no_moment_says_why(text: object, zone: str, why: str) -> None:
    assert not is_plain(text)
    with pytest.raises(MomentError, match=why):
        moment(text, zone)


async def parquet(ingest: Ingest, values: list[Any], type_: pa.DataType, zone: str) -> Summary:
    await ingest.put_source(TIMES % (f", timezone: {zone}" if zone else ""))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"at": pa.array(values, type_)}), buffer)

    async def parts() -> AsyncIterator[bytes]:
        yield buffer.getvalue()

    return await ingest.uploads.take_file(TENANT, "scans", "key", "ada", "parquet", parts())


AT_NOON, NOON_NS = "2026-01-01T12:00:00", 1_767_268_800_123_000_000
NOON = datetime(2026, 1, 1, 12, 0, 0, 123_000)
PARQUET: dict[str, tuple[list[Any], pa.DataType, str, list[str] | None]] = {
    "with an offset": ([NOON], pa.timestamp("us", "UTC"), "", ["2026-01-01T12:00:00.123000Z"]),
    "of another zone": ([NOON], pa.timestamp("ms", BERLIN), "", ["2026-01-01T12:00:00.123000Z"]),
    "seconds": ([1_767_268_800], pa.timestamp("s", "UTC"), "", [f"{AT_NOON}.000000Z"]),
    "without an offset": ([NOON], pa.timestamp("us"), "", None),
    "without one, of a zone": ([NOON], pa.timestamp("us"), BERLIN, ["2026-01-01T11:00:00.123000Z"]),
    "ns that end in zeros": ([NOON_NS], pa.timestamp("ns", "UTC"), "", [f"{AT_NOON}.123000Z"]),
    "nanoseconds": ([NOON_NS + 1], pa.timestamp("ns", "UTC"), "", None),
    "a date": ([date(2026, 1, 1)], pa.date32(), "", None),
    "a date of a zone": ([date(2026, 1, 1)], pa.date32(), BERLIN, ["2025-12-31T23:00:00.000000Z"]),
    "a date64": ([date(2026, 1, 1)], pa.date64(), "UTC", ["2026-01-01T00:00:00.000000Z"]),
    "the year 10000": ([253_402_300_800_000_000], pa.timestamp("us", "UTC"), "", None),
    "before the year 1": ([-(10**17)], pa.timestamp("us", "UTC"), "", None),
    "a day before the year 1": ([-1_000_000], pa.date32(), "UTC", None),
    "a time of day": ([1], pa.time64("us"), "UTC", None),
    "a duration": ([1], pa.duration("us"), "UTC", None),
}  # fmt: skip


@pytest.mark.parametrize("kind", PARQUET)
async def test_parquets_times_are_taken_by_the_rule_or_held(ingest: Ingest, kind: str) -> None:
    values, type_, zone, expected = PARQUET[kind]
    summary = await parquet(ingest, values, type_, zone)
    if expected is None:
        assert (summary.accepted, summary.held) == (0, 1)
        assert summary.reasons == {"type": 1}
        return
    assert (summary.accepted, summary.held) == (1, 0)
    taken = (await ingest.rows(await ingest.seal()))["at"].dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    assert taken.to_list() == expected


async def test_a_columns_zone_is_not_changed_under_its_rows(ingest: Ingest) -> None:
    await parquet(ingest, [NOON], pa.timestamp("us"), BERLIN)
    for zone in (", timezone: UTC", ""):
        with pytest.raises(InvalidInputError, match="had times of Europe/Berlin"):
            await ingest.put_source(TIMES % zone)


# The future.


async def test_an_event_from_the_future_is_held_and_does_not_win(ingest: Ingest) -> None:
    now_ms = round(time.time() * 1_000)
    ahead = datetime.now(timezone(timedelta(hours=2))) + timedelta(days=400)
    sent = [
        record(0, offset=0),
        Record(1, orjson.dumps(row(0, width=7)), headers("1", ce_time=ahead.isoformat().encode())),
        # Kafka's own time stands in for one that the event does not say.
        Record(2, orjson.dumps(row(0, width=8)), headers("2"), timestamp=now_ms + 2 * DAY_MS),
        Record(3, orjson.dumps(row(0, width=9)), headers("3"), timestamp=now_ms + 60_000),
    ]
    await ingest.take(sent)

    held = await ingest.held()
    assert [each.record.reason for each in held] == ["future", "future"]
    rows = await ingest.rows(await ingest.seal())
    assert rows["width"].to_list() == [9.0]

    # Replayed it counts as of when it came: an event after it wins.
    await ingest.remedies.replay(TENANT, held[0].id, "ada")
    later = Record(4, orjson.dumps(row(0, width=10)), headers("4"), timestamp=now_ms + 3_600_000)
    await ingest.take([later])
    rows = await ingest.rows(await ingest.seal())
    assert rows["width"].to_list() == [10.0]
    assert now_ms > NOON_MS
