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
    assert await send_file(ingest, FILES[format_], format_) == Summary("scans", 30, 0, False)

    rows = (await ingest.rows(await ingest.seal())).to_dicts()
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert rows == [{**each, "taken": noon} for each in ROWS]


async def test_records_come_in_parts(ingest: Ingest) -> None:
    records = [orjson.dumps(each, option=orjson.OPT_INDENT_2) for each in ROWS]
    records[4] = b"{"

    summary = await ingest.uploads.take_records(TENANT, "scans", "k", "ada", messages(records))

    assert summary == Summary("scans", 29, 1, False)
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

    assert await send_file(ingest, content, "csv") == Summary("scans", 3, 3, False)
    held = await ingest.held()
    assert [each.record.body for each in held] == bad
    assert [each.record.reason for each in held] == ["type", "unparsable", "unparsable"]
    # What was a row is one that can be sent in again once its columns are right.
    assert orjson.loads(held[0].record.row)["scan"] == "scan-9"


async def test_empty_fields_and_lines_are_nothing(ingest: Ingest) -> None:
    content = b"\xef\xbb\xbfscan,width,slices,contrast,finding\n\na,1,2,,benign\n\n"

    assert await send_file(ingest, content, "csv") == Summary("scans", 1, 0, False)
    assert (await ingest.rows(await ingest.seal()))["contrast"].to_list() == [None]


HEADER = b"scan,width,slices,finding\n"


@pytest.mark.parametrize(
    ("content", "format_", "said"),
    [
        (b"scan,width,colour\n", "csv", "does not know 'colour'; it lacks 'slices', 'finding'"),
        (b"scan,scan,width,slices,finding\n", "csv", "has twice 'scan'"),
        (b"", "csv", "is empty, or its first line is. Begin it with .* the columns: 'scan', "),
        (b"\xef\xbb\xbf", "csv", "is empty"),
        (b"\n", "csv", "is empty, or its first line is"),
        (HEADER, "csv", "has no rows below its header. Check that it was written to its end"),
        (b"", "json lines", "has no rows. Check"),
        (b"\n\n", "json lines", "has no rows. Check"),
        (b"", "parquet", "cannot be read as Parquet"),
        (b"a,b,c,d,e,f,g\n", "csv", "does not know 'a', 'b', 'c', 'd', 'e' and 2 more"),
        (HEADER + b"a" * (LINE_BYTES_MAX + 1), "csv", f"Line 2 is over {LINE_BYTES_MAX}"),
        (b"{" * (LINE_BYTES_MAX + 1), "json lines", "Line 1 is over"),
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

    assert await send_file(ingest, csv_of(rows), "csv") == Summary("scans", 27, 3, False)
    (position,) = await ingest.streams.positions(TENANT, "scans")
    assert [chunk.rows for chunk in position.state.chunks] == [7, 7, 7, 6]
    origins = [each.record.origin for each in await ingest.held()]
    assert origins == ["upload/key/0", "upload/key/10", "upload/key/20"]
    assert (await ingest.rows(await ingest.seal())).height == 27


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
        assert isinstance(found.value, dict | Violation)
        assert found.body in content
