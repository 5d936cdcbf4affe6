"""How much memory pieces of work take at their height: `python -m tests.support.growth FOLDER`.

In a process of its own, whose height is measured anew for each of them. The files were written
before, by `write_files`, since to write them takes more than to refuse them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from libs.common.batches import BATCH_BYTES_MAX, open_batches
from libs.common.errors import InvalidInputError
from services.ingest.core.chunk import Gathering
from services.ingest.core.contract import parse
from services.ingest.core.files import read_rows
from services.ingest.core.limits import CHUNK_BYTES_MAX, MEBIBYTE
from services.ingest.core.sources import Terms
from services.ingest.core.uploads import Spooled, gather_some
from services.ingest.core.validation import Checker
from services.ingest.outbound.parquet_process import ParquetProcess
from tests.support.batches import CODECS, batch
from tests.support.upstream import CONTRACT, Record, headers

Work = Callable[[Path], Callable[[], object]]
WORK: dict[str, Work] = {}
# Far over every limit.
LARGE_CELL_BYTES = 80 * MEBIBYTE
REPOSITORY = Path(__file__).parents[2]


def heights(folder: Path) -> dict[str, tuple[int, Any]]:
    """Of each work: the bytes that it took beside what was there before it, and its answer.

    What its child processes take counts too, whole.
    """
    for name, write in FILES.items():
        write(folder / name)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.growth", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return {name: tuple(found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}


def _bomb(codec: str, size: int) -> Work:
    def prepare(_: Path) -> Callable[[], object]:
        content = batch([bytes(size)], codec)
        return lambda: [
            each.detail
            for each in open_batches(
                content, offset=0, end=10, budget_bytes=BATCH_BYTES_MAX
            ).unreadable
        ]

    return prepare


for _codec in set(CODECS) - {"none"}:
    WORK[f"a batch of {_codec} over the limit"] = _bomb(_codec, BATCH_BYTES_MAX + 1)
WORK["a batch of zstd at the limit"] = _bomb("zstd", BATCH_BYTES_MAX - 100)


def _chunk(body: bytes) -> Work:
    """As much as one chunk holds of records that take the most as Python's objects."""

    def prepare(_: Path) -> Callable[[], object]:
        sent = [
            Record(at, body, headers(f"event-{at}")) for at in range(CHUNK_BYTES_MAX // len(body))
        ]

        def work() -> object:
            gathering = Gathering(Checker(parse(CONTRACT)))
            gathering.add_records(sent, "upstream.acme.scans/0")
            gathered = gathering.finish()
            return [gathered.accepted_rows, gathered.held_rows]

        return work

    return prepare


WORK["a chunk of empty lists"] = _chunk(b'{"scan": [' + b"[]," * 300_000 + b"[]]}")
WORK["a chunk of small records"] = _chunk(b"{}" + b" " * 398)


def _opening(name: str) -> Work:
    def prepare(folder: Path) -> Callable[[], object]:
        path = folder / name
        format_: Any = path.suffix.removeprefix(".").replace("-", " ")
        contract = parse("name: scans\ncolumns:\n  - {name: scan, type: string}\n")

        def work() -> object:
            try:
                return sum(1 for _ in read_rows(path, format_, contract, ParquetProcess()))
            except InvalidInputError as error:
                return str(error)

        return work

    return prepare


def _repeated(path: Path) -> None:
    long = pa.array(["x" * MEBIBYTE])
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5_000, np.int32)), long)
    pq.write_table(pa.table({"scan": column}), path, compression="zstd")


def _many_long(path: Path) -> None:
    """Each within its limit; together 5 GB."""
    long = pa.array(["x" * (MEBIBYTE - 100)])
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100, np.int32)), long)
    pq.write_table(pa.table({"scan": column}), path, compression="zstd")


def _one_cell(codec: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        table = pa.table({"scan": ["y" * LARGE_CELL_BYTES]})
        pq.write_table(table, path, compression=codec, use_dictionary=False, write_statistics=False)

    return write


def _lying(path: Path) -> None:
    """Its footer says that a row group is small; the page in it is not."""
    _one_cell("zstd")(path)
    content = path.read_bytes()
    size = pq.ParquetFile(path).metadata.row_group(0).total_byte_size
    path.write_bytes(content.replace(_varint(size), _varint(100, len(_varint(size)))))


def _varint(number: int, width: int = 0) -> bytes:
    """As Thrift writes it: zigzag, seven bits a byte; padded to a width."""
    number <<= 1
    written = bytearray()
    while number > 0x7F or len(written) + 1 < width:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def _nulls(rows: int, columns: int) -> Callable[[Path], None]:
    """Next to nothing for each row in the file; much more of it as Python's objects."""

    def write(path: Path) -> None:
        table = pa.table({f"c{at}": pa.nulls(1_000_000, pa.float64()) for at in range(columns)})
        with pq.ParquetWriter(path, table.schema, compression="zstd") as file:
            for begin in range(0, rows, table.num_rows):
                file.write_table(table.slice(0, rows - begin))

    return write


def _shared_prefixes(path: Path) -> None:
    """Delta encoding: each value takes up what the one before it had."""
    values = ["x" * (MEBIBYTE - 20) + f"{at:08d}" for at in range(170)]
    pq.write_table(
        pa.table({"scan": values}),
        path,
        compression="zstd",
        use_dictionary=False,
        column_encoding={"scan": "DELTA_BYTE_ARRAY"},
        write_statistics=False,
    )


def _nulls_of(columns: int) -> str:
    return f"{columns}-columns-of-nulls.parquet"


# How many rows, by how many columns.
NULLS = {6: 80_000, 500: 2_000}
# Those first that take little: the largest of the children so far counts for each.
FILES: dict[str, Callable[[Path], object]] = {
    **{_nulls_of(columns): _nulls(rows, columns) for columns, rows in NULLS.items()},
    "of-too-many-nulls.parquet": _nulls(50_000_000, 6),
    "repeats-a-long-value.parquet": _repeated,
    "of-long-values.parquet": _many_long,
    "whose-footer-lies.parquet": _lying,
    "of-shared-prefixes.parquet": _shared_prefixes,
    "one-large-cell.parquet": _one_cell("zstd"),
    "one-large-cell-gzip.parquet": _one_cell("gzip"),
    "open-quotation.csv": lambda path: path.write_bytes(b'scan\n"' + b"x\n" * 2 * MEBIBYTE),
    "one-line.csv": lambda path: path.write_bytes(b"scan\n" + b"x," * 2 * MEBIBYTE),
    "one-line.json-lines": lambda path: path.write_bytes(b'{"scan": "' + b"x" * 2 * MEBIBYTE),
}
for _name in FILES:
    WORK[_name] = _opening(_name)


def _gathering(name: str, columns: int, required: bool) -> Work:
    """As an upload takes a file, to its last chunk."""

    def prepare(folder: Path) -> Callable[[], object]:
        listed = "".join(
            f"  - {{name: c{at}, type: float, required: {str(required).lower()}}}\n"
            for at in range(columns)
        )
        contract = parse(f"name: scans\ncolumns:\n{listed}")
        terms = Terms(contract, 1, Checker(contract))

        def work() -> object:
            spooled = Spooled(folder)
            rows = read_rows(folder / name, "parquet", contract, ParquetProcess())
            try:
                with closing(rows):
                    while gather_some(terms, "key", datetime.now(UTC), spooled, rows):
                        pass
            except InvalidInputError as error:
                return str(error)
            return [sum(rows for _, rows in kept) for kept in (spooled.chunks, spooled.held)]

        return work

    return prepare


WORK["of-too-many-nulls.parquet"] = _gathering("of-too-many-nulls.parquet", 6, True)
for _columns in NULLS:
    WORK[_nulls_of(_columns)] = _gathering(_nulls_of(_columns), _columns, True)


def _height() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _measured(work: Work, folder: Path) -> tuple[int, object]:
    run = work(folder)
    Path("/proc/self/clear_refs").write_text("5")  # The height is what there is now.
    before = _height()
    answer = run()
    return _height() - before, answer


def _all(folder: Path) -> dict[str, tuple[int, object]]:
    """The files first: a child's height counts from before it became another program."""
    found = {}
    for name in FILES:
        taken, answer = _measured(WORK[name], folder)
        if name.endswith(".parquet"):
            taken += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        found[name] = taken, answer
    for name in WORK.keys() - FILES.keys():
        found[name] = _measured(WORK[name], folder)
    return found


if __name__ == "__main__":
    print(json.dumps(_all(Path(sys.argv[1]))))
