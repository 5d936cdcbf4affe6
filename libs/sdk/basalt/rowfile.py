"""Reads files of rows, CSV (RFC 4180, UTF-8) and JSON, so that a fault ends at its line.

The client has the same module (`make protos` copies it): what it shows of a file is what `ingest`
takes of it.

In CSV a field in quotation marks may go over lines, so one quotation mark too many could swallow
all lines up to the next one. A line is open when its last field is, and only a line with an odd
number of quotation marks can close it. Then

    nothing closes it within a record's bytes           it alone is at fault
    what closes it makes no row of the header's width   it alone is at fault
    a field so made contains lines that are rows        each of its lines is in doubt by itself,
                                                        unless that column may have line ends
    else                                                it is one row of several lines

Each line is looked at a bounded number of times, so time follows the size of the file.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Set
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

# Of a record, and of a line.
RECORD_BYTES_MAX = 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")
QUOTE = b'"'
# A field in quotation marks, or without any; and what ends it.
_FIELD = re.compile(r'"((?:[^"]++|"")*+)"(,|\Z)|([^",\r]*+)(,|\Z)')
_OPENED = re.compile(r'"(?:[^"]++|"")*+\Z')

# As RFC 8259 has numbers, and as people write them: a sign, digits on one side of the point.
# Python's own take `7_5` for 75, digits of other scripts, and words such as nan.
INTEGER = re.compile(r"[+-]?[0-9]+")
DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
BLANKS = " \t"
# Longer ones are no number of 64 bits, and Python takes long to read them.
NUMBER_CHARACTERS_MAX = 400

OPEN = "A quotation mark is opened and nothing closes it."
NOT_UTF8 = "It is not UTF-8."
DOUBTFUL = (
    "It lies in a field in quotation marks that goes from line {first} to line {last} and contains"
    " whole rows: a quotation mark too many, or a text with line ends."
)


class CsvError(ValueError):
    """What is wrong with the whole file."""


class Record(NamedTuple):
    """A row, or why there is none.

    fields      as in the file, without quotation marks; [] of an empty line
    fault       a sentence; "" when the fields are those of the header
    raw         its bytes without the last line end; of a line that is too long its beginning
    lines       how many it has in the file
    number      of its first line, from 1
    """

    fields: list[str]
    fault: str
    raw: bytes
    lines: int
    number: int
    doubtful: bool = False
    too_long: bool = False


class Line(NamedTuple):
    """With its end; of one that is too long the beginning. `open`: it has a quotation mark more."""

    content: bytes
    number: int
    open: bool
    too_long: bool


class CsvReader:
    """The header is read at once. Raises CsvError for a file without one."""

    def __init__(
        self,
        file: BinaryIO,
        line_bytes_max: int = RECORD_BYTES_MAX,
        record_bytes_max: int = RECORD_BYTES_MAX,
    ) -> None:
        self._record_bytes_max = record_bytes_max
        self._lines = lines(file, line_bytes_max)
        # Lines that were looked at, and do not belong to what was read so far.
        self._ahead: deque[Line] = deque()
        self.header: list[str] = []
        first = self._next()
        if first is None or not first.content.strip():
            raise CsvError("The file is empty, or its first line is.")
        if first.content.startswith(OTHER_MARKS):
            raise CsvError("The file is UTF-16.")
        if first.too_long:
            raise CsvError(f"Its first line is over {line_bytes_max} bytes.")
        read = self._record(first, lambda _: False, frozenset())[0]
        if read.fault:
            raise CsvError(f"Its header cannot be read: {read.fault}")
        self.header = read.fields
        self.header_lines = read.lines

    def rows(
        self, is_row: Callable[[list[str]], bool], line_ends: Set[int] = frozenset()
    ) -> Iterator[Record]:
        """What follows the header.

        `is_row` says of fields of the header's width whether they could be a row by themselves, and
        `line_ends` which columns may have line ends in them.
        """
        while (line := self._next()) is not None:
            if line.open and not line.too_long:
                yield from self._record(line, is_row, line_ends)
            else:
                yield self._alone(line)

    def _next(self) -> Line | None:
        return self._ahead.popleft() if self._ahead else next(self._lines, None)

    def _alone(self, line: Line) -> Record:
        raw = line.content.rstrip(b"\r\n")
        if line.too_long:
            return Record([], "", raw, 1, line.number, too_long=True)
        fields = split(raw)
        if isinstance(fields, str):
            return Record([], fields, raw, 1, line.number)
        return Record(fields, self._wrong_width(fields), raw, 1, line.number)

    def _wrong_width(self, fields: list[str]) -> str:
        # Before there is a header it is what is read.
        if not fields or not self.header or len(fields) == len(self.header):
            return ""
        return f"It has {len(fields)} fields, but the header names {len(self.header)}."

    def _record(
        self, line: Line, is_row: Callable[[list[str]], bool], line_ends: Set[int]
    ) -> list[Record]:
        """What an open line makes with those that follow, or it alone."""
        if not line.open or not _opens(line.content):
            return [self._alone(line)]
        more = self._up_to_the_next_open(len(line.content))
        raw = line.content.rstrip(b"\r\n")
        if not more:
            return [Record([], OPEN, raw, 1, line.number)]
        spanned = [line, *islice(self._ahead, more)]
        whole = b"".join(each.content for each in spanned).rstrip(b"\r\n")
        fields = split(whole)
        if isinstance(fields, str) or self._wrong_width(fields):
            closed = f"What closes its quotation mark, in line {spanned[-1].number}, makes no row."
            return [Record([], closed, raw, 1, line.number)]
        for _ in range(more):
            self._ahead.popleft()
        across = {at for at, field in enumerate(fields) if "\n" in field}
        if not across <= line_ends and any(self._is_whole(each, is_row) for each in spanned[1:-1]):
            fault = DOUBTFUL.format(first=line.number, last=spanned[-1].number)
            return [self._doubtful(each, fault, is_row) for each in spanned]
        return [Record(fields, "", whole, len(spanned), line.number)]

    def _up_to_the_next_open(self, size: int) -> int:
        """How many lines further it is; 0 when it is not within a record's bytes."""
        for count, line in enumerate(self._looking_ahead(), 1):
            size += len(line.content)
            if size > self._record_bytes_max or line.too_long:
                return 0
            if line.open:
                return count
        return 0

    def _looking_ahead(self) -> Iterator[Line]:
        """The lines that follow, which stay there to be read."""
        yield from self._ahead
        for line in self._lines:
            self._ahead.append(line)
            yield line

    def _is_whole(self, line: Line, is_row: Callable[[list[str]], bool]) -> bool:
        fields = split(line.content.rstrip(b"\r\n"))
        return (
            isinstance(fields, list)
            and bool(fields)
            and not self._wrong_width(fields)
            and is_row(fields)
        )

    def _doubtful(self, line: Line, fault: str, is_row: Callable[[list[str]], bool]) -> Record:
        raw = line.content.rstrip(b"\r\n")
        fields = split(raw) if self._is_whole(line, is_row) else []
        assert isinstance(fields, list)  # noqa: S101 - it is whole.
        return Record(fields, fault, raw, 1, line.number, doubtful=True)


def number(text: str, grammar: re.Pattern[str] = DECIMAL) -> str | None:
    """What of a field is a number, for `int` or `float`; None when it is none."""
    bare = text.strip(BLANKS)
    if len(bare) > NUMBER_CHARACTERS_MAX or grammar.fullmatch(bare) is None:
        return None
    return bare


def split(raw: bytes) -> list[str] | str:
    """The fields of a row, [] of an empty one; or what is wrong with it, as a sentence."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    if "\0" in text:
        return "It has a NUL in it."
    if '"' not in text:
        if "\r" in text:
            return "It has a carriage return in it that ends no line."
        return text.split(",") if text else []
    fields: list[str] = []
    at, more = 0, True
    while more:
        found = _FIELD.match(text, at)
        if found is None:
            return (
                f"Its field {len(fields) + 1} has a quotation mark, or a carriage return, where"
                " none may be."
            )
        quoted, after_quoted, plain, after_plain = found.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"'))
        at, more = found.end(), bool(after_quoted or after_plain)
    return fields


def _opens(raw: bytes) -> bool:
    """Whether its last field begins with a quotation mark that it does not close.

    A line with an odd number of them may be plainly wrong instead.
    """
    text = raw.decode(errors="replace")
    at = 0
    while (found := _FIELD.match(text, at)) is not None:
        at = found.end()
        if not (found[2] or found[4]):
            return False
    return _OPENED.match(text, at) is not None


def repeated_key(body: bytes) -> str | None:
    """A key that an object in a JSON text has twice, so that one of its values is lost to whoever
    reads it; None too of what is no JSON.
    """

    def see(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        known = dict(pairs)
        if len(known) < len(pairs) and not twice:
            names = [name for name, _ in pairs]
            twice.append(next(name for name in names if names.count(name) > 1))
        return known

    twice: list[str] = []
    try:
        json.loads(body, object_pairs_hook=see)
    except (ValueError, RecursionError):
        return None
    return twice[0] if twice else None


def lines(file: BinaryIO, bytes_max: int = RECORD_BYTES_MAX) -> Iterator[Line]:
    """Without the mark that may begin the file; what is too long of one is passed over."""
    number = 0
    while content := file.readline(bytes_max + 1):
        number += 1
        if number == 1:
            content = content.removeprefix(BYTE_ORDER_MARK)
        too_long = len(content) > bytes_max
        if too_long:
            rest = content
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(bytes_max)
        yield Line(content, number, bool(content.count(QUOTE) & 1), too_long)
