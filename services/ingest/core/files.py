"""Reads uploaded files row by row: CSV, JSON lines, Parquet. A row that cannot be read is a row.

What is wrong with the file itself (its header, its format) refuses the file; what is wrong with a
row holds that row back, byte for byte.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import orjson

from libs.common.errors import InvalidInputError
from services.ingest.core import bodies
from services.ingest.core.contract import Contract
from services.ingest.core.limits import RECORD_BYTES_MAX
from services.ingest.core.violation import Violation
from services.ingest.ports import ParquetReader

FileFormat = Literal["csv", "json lines", "parquet"]
FILE_BYTES_MAX = 1024 * 1024 * 1024
NAMES_SHOWN_MAX = 5
LINE_BYTES_MAX = RECORD_BYTES_MAX
WORDS = {"true": True, "false": False, "1": True, "0": False}


class FileRow(NamedTuple):
    """`value` as in `chunk.Row`; `body` is what stood in the file."""

    value: Any
    body: bytes


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


def _lines(file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise InvalidInputError(
                f"Line {number} is over {LINE_BYTES_MAX} bytes.",
                which=f"line {number}",
                next_step="Check that the file has line ends; nothing of it was taken.",
            )
        yield line


def _json_rows(file: BinaryIO, _contract: Contract) -> Iterator[FileRow]:
    for line in _lines(file):
        body = line.rstrip(b"\r\n")
        if body.strip():
            yield json_row(body)


def _csv_rows(file: BinaryIO, contract: Contract) -> Iterator[FileRow]:
    # The raw lines of the record that the reader is at: it may go over several.
    raw: list[bytes] = []
    unreadable: list[bytes] = []

    def text() -> Iterator[str]:
        size = 0
        for line in _lines(file):
            size = len(line) if not raw else size + len(line)
            raw.append(line)
            if len(raw) > 1 and size > RECORD_BYTES_MAX:
                raise InvalidInputError(
                    f"A record of {len(raw)} lines is over {RECORD_BYTES_MAX} bytes.",
                    which="file",
                    next_step="Check that every quotation mark is closed; nothing of it was taken.",
                )
            try:
                yield line.decode("utf-8-sig" if line.startswith(b"\xef\xbb\xbf") else "utf-8")
            except UnicodeDecodeError:
                unreadable.append(line)
                yield line.decode(errors="replace")

    # A cell may be as long as a record; the module's own limit is an eighth of that.
    csv.field_size_limit(RECORD_BYTES_MAX)
    reader = csv.reader(text(), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise _not_of_format("CSV", error) from error
    if not header:
        raise InvalidInputError(
            "The file is empty, or its first line is.",
            which="file",
            next_step="Begin it with a line that names the columns:"
            f" {_some([column.name for column in contract.columns])}; nothing of it was taken.",
        )
    _check_columns(header, contract)
    raw.clear()
    convert = [_converter(contract, name) for name in header]
    while True:
        try:
            fields = next(reader, None)
            fault = "" if not unreadable else "It is not UTF-8."
        except csv.Error as error:
            fields, fault = [""], f"It is not CSV: {error}."
        if fields is None:
            return
        body = b"".join(raw).rstrip(b"\r\n")
        raw.clear()
        unreadable.clear()
        if not fields:
            continue
        if not fault and len(fields) != len(header):
            fault = f"It has {len(fields)} fields, but the header names {len(header)}."
        if fault:
            detail = f"{fault} Mend it as a JSON object with the contract's columns."
            yield FileRow(Violation("unparsable", detail), body)
        else:
            values = zip(header, convert, fields, strict=True)
            yield FileRow({name: to(field) for name, to, field in values}, body)


def _converter(contract: Contract, name: str) -> Any:
    """From a field's text to the column's type; what is not of it stays text, to be refused."""
    column = contract.column(name)
    kind = column.type if column is not None else "string"

    def number(text: str) -> Any:
        text = text.strip()
        if not text:
            return None
        try:
            return float(text) if kind == "float" and "_" not in text else int(text)
        except ValueError:
            return text

    if kind in ("float", "integer"):
        return number
    if kind == "boolean":
        return lambda text: WORDS.get(text.strip().lower(), text) if text.strip() else None
    return lambda text: text or None


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
