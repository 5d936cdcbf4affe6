from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInputError, LimitError, NotFoundError
from services.ingest.core import uploads
from services.ingest.core.contract import parse
from services.ingest.core.files import LINE_BYTES_MAX, FileFormat, read_rows
from services.ingest.core.limits import OVERSIZED_BYTES_KEPT
from services.ingest.core.uploads import Summary
from services.ingest.core.violation import Violation
from services.ingest.outbound.parquet_process import ParquetProcess
from tests.support.upstream import CONTRACT, TENANT, Ingest, row

ROWS = [row(number) for number in range(30)]


async def in_parts(content: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


async def messages(records: Sequence[bytes], size: int = 7) -> AsyncIterator[Sequence[bytes]]:
    for at in range(0, len(records), size):
        yield records[at : at + size]


async def send_file(
    ingest: Ingest, content: bytes, format_: FileFormat, key: str = "key", source: str = "scans"
) -> Summary:
    return await ingest.uploads.take_file(TENANT, source, key, "ada", format_, in_parts(content))


def counts(summary: Summary) -> tuple[int, int]:
    assert not summary.repeated
    return summary.accepted, summary.held


def csv_of(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def json_of(rows: Sequence[dict[str, Any]]) -> bytes:
    return b"\n".join(map(orjson.dumps, rows)) + b"\n"


def parquet_of(rows: Sequence[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    frame = pl.DataFrame(rows).with_columns(pl.col("taken").str.to_datetime(time_zone="UTC"))
    frame.write_parquet(buffer)
    return buffer.getvalue()


FILES = {"csv": csv_of(ROWS), "json lines": json_of(ROWS), "parquet": parquet_of(ROWS)}


def stored(ingest: Ingest) -> list[Path]:
    return [path for path in (ingest.folder / "ingest").rglob("*") if path.is_file()]


@pytest.mark.parametrize("format_", list(FILES))
async def test_every_format_says_the_same(ingest: Ingest, format_: FileFormat) -> None:
    assert counts(await send_file(ingest, FILES[format_], format_)) == (30, 0)

    rows = (await ingest.rows(await ingest.seal())).to_dicts()
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert rows == [{**each, "taken": noon} for each in ROWS]


async def test_records_come_in_parts(ingest: Ingest) -> None:
    records = [orjson.dumps(each, option=orjson.OPT_INDENT_2) for each in ROWS]
    records[4] = b"{"

    summary = await ingest.uploads.take_records(TENANT, "scans", "k", "ada", messages(records))

    assert counts(summary) == (29, 1)
    (held,) = await ingest.held()
    assert (held.record.origin, held.record.body) == ("upload/k/4", b"{")
    assert held.record.reason == "unparsable"


async def test_the_same_key_counts_once(ingest: Ingest) -> None:
    first = await send_file(ingest, FILES["csv"], "csv")
    again = await send_file(ingest, FILES["csv"], "csv")
    other = await send_file(ingest, FILES["csv"], "csv", key="other")

    assert (first.repeated, again.repeated, other.repeated) == (False, True, False)
    assert again.accepted == 30
    version = await ingest.seal()
    assert (version.sealed.manifest.row_count, version.sealed.duplicates_dropped) == (30, 30)


async def test_the_same_key_at_once_counts_once(ingest: Ingest) -> None:
    summaries = await asyncio.gather(*(send_file(ingest, FILES["csv"], "csv") for _ in range(4)))

    assert sorted(each.repeated for each in summaries) == [False, True, True, True]
    assert (await ingest.sources.counts(TENANT, "scans")).accepted == 30


async def test_bad_rows_are_held_as_they_stood_in_the_file(ingest: Ingest) -> None:
    lines = csv_of(ROWS[:3]).splitlines(keepends=True)
    bad = [b'scan-9,"a\nb",1,true,,benign', b"scan-8,1.5,1", b"scan-7,\xff,1,true,,benign"]
    content = b"".join([*lines, *(each + b"\r\n" for each in bad)])

    assert counts(await send_file(ingest, content, "csv")) == (3, 3)
    held = await ingest.held()
    assert [each.record.body for each in held] == bad
    assert [each.record.reason for each in held] == ["type", "unparsable", "unparsable"]
    # What was a row is one that can be sent in again once its columns are right.
    assert orjson.loads(held[0].record.row)["scan"] == "scan-9"


async def test_empty_fields_and_lines_are_nothing(ingest: Ingest) -> None:
    content = b"\xef\xbb\xbfscan,width,slices,contrast,finding\n\na,1,2,,benign\n\n"

    assert counts(await send_file(ingest, content, "csv")) == (1, 0)
    assert (await ingest.rows(await ingest.seal()))["contrast"].to_list() == [None]


HEADER = b"scan,width,slices,finding\n"


@pytest.mark.parametrize(
    ("content", "format_", "said"),
    [
        (b"scan,width,colour\n", "csv", "does not know 'colour'; it lacks 'slices', 'finding'"),
        (b"scan,scan,width,slices,finding\n", "csv", "has twice 'scan'"),
        (b"", "csv", "is empty, or its first line is. .* names the columns: 'scan', "),
        (b"\xef\xbb\xbf", "csv", "is empty"),
        (b"\n", "csv", "is empty, or its first line is"),
        (HEADER, "csv", "has no rows below its header. Check that it was written to its end"),
        (b"", "json lines", "has no rows. Check"),
        (b"\n\n", "json lines", "has no rows. Check"),
        (b"", "parquet", "cannot be read as Parquet"),
        (b"a,b,c,d,e,f,g\n", "csv", "does not know 'a', 'b', 'c', 'd', 'e' and 2 more"),
        (b"a" * (LINE_BYTES_MAX + 1), "csv", f"first line is over {LINE_BYTES_MAX}"),
        ("\ufeffscan,width".encode("utf-16"), "csv", "is UTF-16. Send CSV in UTF-8"),
        (b"scan,width,slices,finding\ra,1,2,b\r", "csv", "carriage return"),
        (b"PAR1 but no more", "parquet", "cannot be read as Parquet"),
        (FILES["parquet"][:-9], "parquet", "cannot be read as Parquet"),
        (FILES["parquet"][:200] + b"\0" * 900 + FILES["parquet"][1_100:], "parquet", "Parquet"),
    ],
)
async def test_a_file_that_is_wrong_leaves_nothing(
    ingest: Ingest, content: bytes, format_: FileFormat, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        await send_file(ingest, content, format_)

    assert stored(ingest) == []
    assert await ingest.journal.heads("stream") == []


async def test_an_upload_that_ends_in_the_middle_leaves_nothing(ingest: Ingest) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield FILES["csv"][:900]
        raise asyncio.CancelledError

    async def broken_records() -> AsyncIterator[Sequence[bytes]]:
        yield [orjson.dumps(each) for each in ROWS]
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await ingest.uploads.take_file(TENANT, "scans", "k", "ada", "csv", broken())
    with pytest.raises(asyncio.CancelledError):
        await ingest.uploads.take_records(TENANT, "scans", "k", "ada", broken_records())

    assert stored(ingest) == []
    assert (await send_file(ingest, FILES["csv"], "csv", key="k")).repeated is False


async def test_limits_are_named(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "FILE_BYTES_MAX", 1_000)
    with pytest.raises(LimitError, match="over 1000 bytes"):
        await send_file(ingest, FILES["csv"], "csv")
    monkeypatch.undo()
    monkeypatch.setattr(uploads, "ROWS_MAX", 20)
    with pytest.raises(LimitError, match="over 20 records"):
        await send_file(ingest, FILES["csv"], "csv")
    for records, said in (
        ([b"{}"] * 10_001, "10001 records"),
        ([b"x" * (1024 * 1024 + 1)], "has 1048577 bytes"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            await ingest.uploads.take_records(
                TENANT, "scans", "k", "ada", messages(records, 20_000)
            )
    with pytest.raises(InvalidInputError, match="idempotency key"):
        await send_file(ingest, FILES["csv"], "csv", key="k" * 200)
    assert stored(ingest) == []


async def test_large_uploads_become_several_chunks(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_ROWS_MAX", 8)
    rows = [{**each, "width": -1} if at % 10 == 0 else each for at, each in enumerate(ROWS)]

    assert counts(await send_file(ingest, csv_of(rows), "csv")) == (27, 3)
    (position,) = await ingest.streams.positions(TENANT, "scans")
    assert [chunk.rows for chunk in position.state.chunks] == [6, 7, 7, 7]
    origins = [each.record.origin for each in await ingest.held()]
    assert origins == ["upload/key/0", "upload/key/10", "upload/key/20"]
    assert (await ingest.rows(await ingest.seal())).height == 27


async def test_the_lines_of_a_file_add_up(ingest: Ingest) -> None:
    content = (
        HEADER
        + b"a,1,2,benign\n\n"  # One accepted, one empty.
        + b'"b\nc",1,2,benign\n'  # A row of two lines.
        + b"c,x,2,benign\n"  # Of another type.
        + b'd,1,2,"benign\n'  # Opened, and never closed.
        + b"e,1,2,benign\n"
        + b"f,1\n"
    )
    summary = await send_file(ingest, content, "csv")

    assert counts(summary) == (3, 3)
    lines = summary.lines
    assert (lines.accepted, lines.held, lines.skipped) == (4, 3, 2)
    assert lines.read == content.count(b"\n")
    assert summary.reasons == {"type": 1, "unparsable": 2}
    assert [example.split(":")[0] for example in summary.examples[1:]] == ["Line 7", "Line 9"]
    # Told again, it is the same.
    again = await send_file(ingest, content, "csv")
    assert (again.repeated, again.lines, again.reasons) == (True, lines, summary.reasons)


@pytest.mark.parametrize("format_", ["csv", "json lines"])
async def test_a_line_that_is_too_long_is_held_alone(ingest: Ingest, format_: FileFormat) -> None:
    lines = FILES[format_].splitlines(keepends=True)
    long = b"y" * (LINE_BYTES_MAX + 1) + b"\n"
    content = b"".join([*lines[:10], long, *lines[10:]])

    summary = await send_file(ingest, content, format_)

    assert counts(summary) == (30, 1)
    assert summary.reasons == {"too-large": 1}
    (held,) = await ingest.held()
    assert len(held.record.body) == OVERSIZED_BYTES_KEPT


async def test_lines_in_doubt_are_held_and_may_be_taken_as_they_are(ingest: Ingest) -> None:
    content = HEADER + b'a,1,2,"benign\nb,1,2,benign\nc,1,2,benign"\nd,1,2,benign\n'

    summary = await send_file(ingest, content, "csv")

    assert counts(summary) == (1, 3)
    assert summary.reasons == {"doubtful": 3}
    held = await ingest.held()
    assert [each.record.row != b"" for each in held] == [False, True, False]
    await ingest.remedies.replay(TENANT, held[1].id, "ada")
    rows = await ingest.rows(await ingest.seal())
    assert sorted(rows["scan"].to_list()) == ["b", "d"]


async def test_the_same_file_is_judged_again_under_another_contract(ingest: Ingest) -> None:
    content = HEADER + b"a,1,2,benign\nb,900,2,benign\n"
    assert counts(await send_file(ingest, content, "csv")) == (1, 1)
    wider = CONTRACT.replace("maximum: 100}", "maximum: 1000}")
    assert wider != CONTRACT
    await ingest.sources.put(TENANT, "scans", wider, "ada")

    assert counts(await send_file(ingest, content, "csv")) == (2, 0)
    assert (await send_file(ingest, content, "csv")).repeated

    # What was accepted before is the same row.
    rows = await ingest.rows(await ingest.seal())
    assert sorted(rows["scan"].to_list()) == ["a", "b"]
    # All of it was accepted: another contract changes nothing.
    await ingest.sources.put(TENANT, "scans", wider.replace("1000}", "2000}"), "ada")
    assert (await send_file(ingest, HEADER + b"z,1,2,benign\n", "csv", key="z")).accepted == 1
    await ingest.sources.put(TENANT, "scans", wider.replace("1000}", "3000}"), "ada")
    assert (await send_file(ingest, HEADER + b"z,1,2,benign\n", "csv", key="z")).repeated


@pytest.mark.parametrize(
    "number",
    [
        "7_5",
        "0x10",
        "1e",
        "१२",
        "½",
        "NaN",
        "inf",
        "1 2",
        "+-1",
        "--1",
        "1,",
        ".",
        "1e400",
        "9" * 500,
    ],
)
async def test_what_is_no_number_is_held(ingest: Ingest, number: str) -> None:
    content = HEADER + f'a,"{number}",2,benign\n'.encode()
    summary = await send_file(ingest, content, "csv")
    assert counts(summary) == (0, 1)
    assert summary.reasons == {"type": 1}


@pytest.mark.parametrize(
    ("number", "value"), [("+7.5", 7.5), ("7.", 7.0), (".5", 0.5), ("1e2", 100.0), (" 7\t", 7.0)]
)
async def test_numbers_as_people_write_them(ingest: Ingest, number: str, value: float) -> None:
    await send_file(ingest, HEADER + f"a,{number},2,benign\n".encode(), "csv")
    assert (await ingest.rows(await ingest.seal()))["width"].to_list() == [value]


async def test_an_upload_to_no_source_is_not_found(ingest: Ingest) -> None:
    for source in ("other", "", "no/name"):
        with pytest.raises(NotFoundError):
            await send_file(ingest, FILES["csv"], "csv", source=source)


@given(content=st.binary(max_size=200))
def test_whatever_stands_in_a_csv_file_every_row_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("file") / "file"
    path.write_bytes(HEADER + content)

    for found in read_rows(path, "csv", parse(CONTRACT), ParquetProcess()):
        assert found.is_none or isinstance(found.value, dict | Violation)
        assert found.body in content
