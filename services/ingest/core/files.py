"""Reads uploaded files row by row: CSV, JSON lines, Parquet. A row that cannot be read is a row.

What is wrong with the file itself (its header, its format) refuses the file; what is wrong with a
row holds that row back, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import orjson

from libs.common import rowfile
from libs.common.errors import InvalidInputError
from services.ingest.core import bodies
from services.ingest.core.contract import Contract
from services.ingest.core.limits import OVERSIZED_BYTES_KEPT, RECORD_BYTES_MAX
from services.ingest.core.validation import Checker
from services.ingest.core.violation import Violation
from services.ingest.ports import ParquetReader

FileFormat = Literal["csv", "json lines", "parquet"]
FILE_BYTES_MAX = 1024 * 1024 * 1024
NAMES_SHOWN_MAX = 5
LINE_BYTES_MAX = RECORD_BYTES_MAX
MEND = "Mend it as a JSON object with the contract's columns."
DOUBT = (
    "If it is a row, replay it. If it is text, let the column have line ends (`line_ends: true` in"
    " the contract) and upload the file again."
)
WORDS = {"true": True, "false": False, "1": True, "0": False}


class FileRow(NamedTuple):
    """`value` as in `chunk.Row`; `body` is what stood in the file, in so many `lines` of it."""

    value: Any
    body: bytes
    lines: int = 1

    @property
    def is_none(self) -> bool:
        """Whether it is only there to be counted."""
        return self.value is NO_VALUE


NO_VALUE = object()
# A line that holds no row, as an empty one and the header do: it is only counted.
NO_ROW = FileRow(NO_VALUE, b"")


def read_rows(
    path: Path, format_: FileFormat, contract: Contract, parquet: ParquetReader
) -> Generator[FileRow, None, None]:
    """Raises InvalidInputError for a file that is not of the format, or not of this contract."""
    if format_ == "parquet":
        yield from _parquet_rows(path, contract, parquet)
        return
    with path.open("rb") as file:
        yield from (_csv_rows if format_ == "csv" else _json_rows)(file, contract)


def json_row(body: bytes) -> FileRow:
    """It is opened when its turn comes: as Python's objects it takes many times its bytes."""
    return FileRow(partial(_opened_json, body), body)


def _opened_json(body: bytes) -> Any:
    try:
        return bodies.parse(body)
    except orjson.JSONDecodeError as error:
        fault = f"It is not JSON: {error}. Mend it as a JSON object with the contract's columns."
        return Violation("unparsable", fault)


def _json_rows(file: BinaryIO, _contract: Contract) -> Iterator[FileRow]:
    for line in rowfile.lines(file):
        body = line.content.rstrip(b"\r\n")
        if line.too_long:
            yield _too_long(body, line.number)
        else:
            yield json_row(body) if body.strip() else NO_ROW


def _csv_rows(file: BinaryIO, contract: Contract) -> Iterator[FileRow]:
    try:
        reader = rowfile.CsvReader(file)
    except rowfile.CsvError as error:
        raise InvalidInputError(
            str(error),
            which="file",
            next_step="Send CSV in UTF-8, with lines that end in LF or CRLF, and a first line that"
            f" names the columns: {_some([column.name for column in contract.columns])}; nothing of"
            " it was taken.",
        ) from error
    header = reader.header
    _check_columns(header, contract)
    columns = [contract.column(name) for name in header]
    line_ends = {at for at, each in enumerate(columns) if each is not None and each.line_ends}
    convert = [_converter(contract, name) for name in header]
    checker = Checker(contract)

    def row_of(fields: list[str]) -> dict[str, Any]:
        values = zip(header, convert, fields, strict=True)
        return {name: to(field) for name, to, field in values}

    def is_row(fields: list[str]) -> bool:
        return not isinstance(checker.exact(row_of(fields)), Violation)

    yield NO_ROW._replace(lines=reader.header_lines)
    for each in reader.rows(is_row, line_ends):
        if each.too_long:
            yield _too_long(each.raw, each.number)
        elif each.doubtful:
            detail = f"Line {each.number}: {each.fault} {DOUBT}"
            row = row_of(each.fields) if each.fields else None
            yield FileRow(Violation("doubtful", detail, row), each.raw)
        elif each.fault:
            detail = f"Line {each.number}: {each.fault} {MEND}"
            yield FileRow(Violation("unparsable", detail), each.raw, each.lines)
        elif each.fields:
            yield FileRow(row_of(each.fields), each.raw, each.lines)
        else:
            yield NO_ROW


def _too_long(line: bytes, number: int) -> FileRow:
    detail = (
        f"Line {number} is over {LINE_BYTES_MAX} bytes. Its first {OVERSIZED_BYTES_KEPT} are kept"
        " here. Check that the file has line ends, and say it in less."
    )
    return FileRow(Violation("too-large", detail), line[:OVERSIZED_BYTES_KEPT])


def _converter(contract: Contract, name: str) -> Callable[[str], Any]:
    """From a field's text to the column's type; what is not of it stays text, to be refused."""
    column = contract.column(name)
    kind = column.type if column is not None else "string"
    if kind == "float":
        return partial(_number, rowfile.DECIMAL, float)
    if kind == "integer":
        return partial(_number, rowfile.INTEGER, int)
    if kind == "boolean":
        return lambda text: (
            WORDS.get(text.strip(rowfile.BLANKS).lower(), text) if text.strip() else None
        )
    return lambda text: text or None


def _number(grammar: re.Pattern[str], kind: type[float], text: str) -> Any:
    found = rowfile.number(text, grammar)
    if found is None:
        return text if text.strip(rowfile.BLANKS) else None
    return kind(found)


def _parquet_rows(path: Path, contract: Contract, reader: ParquetReader) -> Iterator[FileRow]:
    with reader.open(path) as table:
        _check_columns(table.columns, contract)
        for body in table.rows:
            yield json_row(body)


def _check_columns(names: list[str], contract: Contract) -> None:
    known = {column.name for column in contract.columns}
    unknown = [name for name in names if name not in known]
    lacking = [each.name for each in contract.columns if each.required and each.name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    faults = [
        f"{word} {_some(wrong)}"
        for word, wrong in (
            ("the contract does not know", unknown),
            ("it lacks", lacking),
            ("it has twice", twice),
        )
        if wrong
    ]
    if faults:
        raise InvalidInputError(
            f"The file's columns are not those of {contract.name}: {'; '.join(faults)}.",
            which=contract.name,
            next_step="Name the columns as in the contract; nothing of the file was taken.",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:NAMES_SHOWN_MAX]))
    more = len(names) - NAMES_SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def _not_of_format(name: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"The file cannot be read as {name}: {str(error).splitlines()[0][:200]}.",
        which="file",
        next_step="Check the format it was sent as; nothing of it was taken.",
    )
