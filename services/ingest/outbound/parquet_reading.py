"""`python -m services.ingest.outbound.parquet_reading FILE`: Parquet in, a JSON line a row out.

A process of its own, since nothing in such a file can be believed before it is opened: a dictionary
repeats one long value a million times in a few bytes, a page says that it is small and is not. The
kernel sets the limit, and who passes it is this process alone.

    !{"columns": […]}                               first of all
    !{"refused": why, "next_step": what to do}      what is wrong with the file; then it ends
    {column: value}, a row; what JSON has no word for is {its type: as text}
    an empty line: the file was read to its end
"""

from __future__ import annotations

import importlib
import math
import resource
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from services.ingest.core.limits import (
    MEBIBYTE,
    RECORD_BYTES_MAX,
    ROW_GROUP_BYTES_MAX,
    ROWS_MAX,
)

# With what Python and pyarrow take for themselves it stays below INTAKE_BYTES_MAX.
MEMORY_BYTES_MAX = 160 * MEBIBYTE
CPU_S_MAX = 1_800
BATCH_ROWS = 1_000
# So much of a batch becomes Python's objects at once.
OPENED_BYTES_MAX = 4 * MEBIBYTE
PAGE_BYTES = 4096
EPOCH = datetime(1970, 1, 1)  # Offsets are said beside it.
UNITS_A_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class RefusedError(Exception):
    """What is wrong with the file, and what to do about it."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next_step = next_step


def main(path: Path, out: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _limit()
    try:
        for line in _lines(pq, path):
            out.write(line + b"\n")
        out.write(b"\n")
    except RefusedError as error:
        out.write(_refusal(str(error), error.next_step))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, (pa.ArrowMemoryError, BrokenPipeError)):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        what = f"The file cannot be read as Parquet: {reason}."
        out.write(_refusal(what, "Check the format it was sent as; nothing of it was taken."))


def _refusal(what: str, next_step: str) -> bytes:
    return b"!" + orjson.dumps({"refused": what, "next_step": next_step}) + b"\n"


def _limit() -> None:
    """From here on, beside what is there already: what is imported is not the file's."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = pages * PAGE_BYTES + MEMORY_BYTES_MAX
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _lines(pq: Any, path: Path) -> Iterator[bytes]:
    with pq.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
        yield b"!" + orjson.dumps({"columns": schema.names})
        for field in schema:
            if field.type.num_fields:
                raise RefusedError(
                    f"Its column {field.name[:100]!r} is a {str(field.type)[:100]}.",
                    "A column holds single values: write them as columns of their own.",
                )
        if metadata.num_rows > ROWS_MAX:
            raise RefusedError(
                f"It has {metadata.num_rows} rows; an upload has at most {ROWS_MAX}.",
                "Send it as several uploads; nothing of it was taken.",
            )
        for at in range(metadata.num_row_groups):
            size = metadata.row_group(at).total_byte_size
            if size > ROW_GROUP_BYTES_MAX:
                raise RefusedError(
                    f"Its row group {at} has {size} bytes when decompressed; at most"
                    f" {ROW_GROUP_BYTES_MAX} are taken.",
                    "Write it with smaller row groups, such as row_group_size=50_000;"
                    " nothing of it was taken.",
                )
        texts = [
            field.name
            for at, field in enumerate(schema)
            if _is_text(str(field.type)) and not _is_delta(metadata, at)
        ]
    # Long values that repeat stay one value each.
    with pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
        number = 0
        for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
            yield from _rows(batch, number)
            number += batch.num_rows


def _is_text(type_: str) -> bool:
    return type_ in ("string", "large_string", "binary", "large_binary") or "dictionary" in type_


def _is_delta(metadata: Any, column: int) -> bool:
    """Whether it is written as differences, which pyarrow makes no dictionary of."""
    groups = (metadata.row_group(at).column(column) for at in range(metadata.num_row_groups))
    return any("DELTA" in encoding for group in groups for encoding in group.encodings)


def _rows(batch: Any, number: int) -> Iterator[bytes]:
    import numpy as np

    widths = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        widths += _widths(column)
    longest = int(widths.max(initial=0))
    if longest > RECORD_BYTES_MAX:
        raise _too_long(number + int(widths.argmax()), longest)
    step = batch.num_rows
    if int(widths.sum()) > OPENED_BYTES_MAX:
        step = max(1, OPENED_BYTES_MAX // longest)
    batch = _with_times_as_text(batch)
    odd = [
        column
        for column, values in zip(batch.schema.names, batch.columns, strict=True)
        if _is_odd(values)
    ]
    for begin in range(0, batch.num_rows, step):
        for at, row in enumerate(batch.slice(begin, step).to_pylist(), number + begin):
            for name in odd:
                row[name] = _plain(row[name])
            line = orjson.dumps(row, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)
            if len(line) > RECORD_BYTES_MAX:
                raise _too_long(at, len(line))
            yield line


def _too_long(row: int, size: int) -> RefusedError:
    return RefusedError(
        f"Its row {row + 1} has {size} bytes; a record has at most {RECORD_BYTES_MAX}.",
        "Leave long values out, or shorten them; nothing of the file was taken.",
    )


def _widths(column: Any) -> Any:
    """The bytes of each text in a column; 0 of other values."""
    import pyarrow as pa

    pc = _compute()
    if not _is_text(str(column.type)):
        return 0
    if isinstance(column, pa.DictionaryArray):
        lengths = pc.binary_length(column.dictionary).take(column.indices)
    else:
        lengths = pc.binary_length(column)
    return pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)


def _with_times_as_text(batch: Any) -> Any:
    """Dates and times as RFC 3339, with all their digits and the offset that they have or have not.

    What becomes of those without an offset, and of those finer than what is kept, is the contract's
    to say, as for text. Python's own types know no nanoseconds and no year 10000.
    """
    import pyarrow as pa

    columns = [
        pa.array(_time_texts(column), pa.string()) if _is_time(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _is_time(type_: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_timestamp(type_) or pa.types.is_date(type_)


def _time_texts(column: Any) -> list[str | None]:
    import pyarrow as pa

    if pa.types.is_date(column.type):
        days = column.cast(pa.date32()).cast(pa.int32()).to_pylist()
        return [None if day is None else _date(day) for day in days]
    a_second = UNITS_A_SECOND[column.type.unit]
    digits = len(str(a_second)) - 1
    offset = "+00:00" if column.type.tz else ""
    return [
        None if ticks is None else _time(ticks, a_second, digits) + offset
        for ticks in column.cast(pa.int64()).to_pylist()
    ]


def _date(day: int) -> str:
    try:
        return (EPOCH + timedelta(days=day)).date().isoformat()
    except OverflowError:
        return f"day {day} since 1970"


def _time(ticks: int, a_second: int, digits: int) -> str:
    seconds, fraction = divmod(ticks, a_second)
    try:
        at = (EPOCH + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        return f"{ticks}/{a_second} s since 1970"
    return f"{at}.{fraction:0{digits}d}" if fraction else at


def _is_odd(column: Any) -> bool:
    """Whether it holds what JSON would silently make null."""
    import pyarrow as pa

    pc = _compute()
    return (
        pa.types.is_floating(column.type)
        and not pc.all(pc.is_finite(column.cast(pa.float64()))).as_py()
    )


def _compute() -> Any:
    """pyarrow's functions, which it makes when it is imported: no type checker knows them."""
    return importlib.import_module("pyarrow.compute")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if value is None or isinstance(value, str):
        return value
    return {type(value).__name__: str(value)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdout.buffer)
