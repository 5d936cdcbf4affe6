"""Turns records into a Parquet chunk of the rows that hold, and one of the records that do not.

A chunk has the contract's columns, and Basalt's own beside them:

    _event      identity of the event, by which a repeated one is known
    _occurred   when it occurred: microseconds since 1970 in UTC
    _position   Kafka's offset, or the number of the row in its upload
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import orjson
import polars as pl
import structlog
from pydantic import BaseModel, ConfigDict

from libs.common import telemetry
from libs.common.unreadable import unreadable
from services.ingest.core.cloudevents import Opened, open_event
from services.ingest.core.limits import (
    OVERSIZED_BYTES_KEPT,
    RECORD_BYTES_MAX,
    SLICE_BYTES_MAX,
    SLICE_ROWS_MAX,
)
from services.ingest.core.moments import EPOCH
from services.ingest.core.validation import Checked, Checker
from services.ingest.core.violation import Violation
from services.ingest.ports import UpstreamRecord

EVENT, OCCURRED, POSITION = "_event", "_occurred", "_position"
TRACES_MAX = 8
EXAMPLES_MAX = 3
COMPRESSION_LEVEL = 1  # Chunks are read once or twice: quick matters more than small.

OCCURRED_US_MAX = 2**63 - 1
LAST_SHOWN_US = 253_402_300_799_000_000  # The end of the year 9999.
UNJUDGED = Violation(
    "unparsable", "The record could not be judged. Mend it as a JSON object with few levels."
)
T = TypeVar("T")

log = structlog.get_logger(__name__)

HELD_TYPES: dict[str, Any] = {
    "position": pl.Int64(),
    "reason": pl.String(),
    "detail": pl.String(),
    "body": pl.Binary(),
    "headers": pl.String(),
    "identity": pl.String(),
    "occurred_us": pl.Int64(),
    "row": pl.Binary(),
    "origin": pl.String(),
}


class Held(NamedTuple):
    """A record that is held back, byte for byte, with what could be understood of it.

    headers   JSON [[name, base64 of the value], ...]
    row       the JSON value in it, "" where there is none
    """

    position: int
    reason: str
    detail: str
    body: bytes
    headers: str
    identity: str
    occurred_us: int
    row: bytes
    origin: str


class Row(NamedTuple):
    """A record with its envelope opened.

    `value` is a JSON value, or why there is none; or what opens it, when it is to be opened late.
    """

    position: int
    identity: str
    occurred_us: int
    value: Any
    body: bytes
    origin: str
    headers: str = "[]"
    # That it has in its file.
    lines: int = 1


class _Judged(NamedTuple):
    frame: pl.DataFrame
    held: list[Held]
    traceparents: list[str]
    accepted_lines: int = 0


class StoredChunk(BaseModel):
    """A Parquet object by its digest, as journal entries name it."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """Parquet of the accepted rows and of the held records, b"" for none; not stored yet."""

    accepted: bytes
    accepted_rows: int
    held: bytes
    held_rows: int
    traceparents: list[str] = field(default_factory=list)
    # Of the lines of a file, those that the accepted rows have.
    accepted_lines: int = 0
    # How many are held for each reason, and what was wrong with the first of them.
    reasons: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


class Gathering:
    """Opens and checks what is given to it, a slice at a time, until it is made into a chunk.

    What a slice needs as Python's objects is free again before the next one: only columns stay.
    An event of later than `latest_us` is held: it would win over every later one of its key.
    `known` are the contents of records that are held already and come again, as the log is read
    again: they are not held twice. Takes CPU: use a thread.
    """

    def __init__(
        self,
        checker: Checker,
        known: frozenset[bytes] = frozenset(),
        latest_us: int = OCCURRED_US_MAX,
    ) -> None:
        self._checker = checker
        self._latest_us = latest_us
        self._known = known
        self._frames: list[pl.DataFrame] = []
        self._held: list[Held] = []
        self._traceparents: dict[str, None] = {}
        self._accepted_lines = 0

    def add_records(self, records: Sequence[UpstreamRecord], origin: str) -> None:
        """`origin` is "<topic>/<partition>": where the records came from."""
        sizes = list(map(record_bytes, records))
        # Nearly always none: then nobody has to ask each.
        large = frozenset(
            record.offset
            for record, size in zip(records, sizes, strict=True)
            if size > RECORD_BYTES_MAX and unreadable(record.headers) is None
        )
        for part in slices(records, sizes):
            self._add(
                part,
                lambda some: self._judge_records(some, origin, large),
                _unjudged_record(origin),
            )

    def add_rows(self, rows: Sequence[Row]) -> None:
        """The same for what did not come through Kafka."""
        for part in slices(rows, [len(row.body) for row in rows]):
            self._add(part, self._judge_rows, _unjudged_row)

    def finish(self) -> Gathered:
        accepted = refused = b""
        rows = sum(frame.height for frame in self._frames)
        if rows:
            accepted = _parquet(pl.concat(self._frames, how="vertical"))
        if self._held:
            refused = _parquet(pl.DataFrame(self._held, schema=HELD_TYPES, orient="row"))
        return Gathered(
            accepted,
            rows,
            refused,
            len(self._held),
            list(self._traceparents),
            self._accepted_lines,
            Counter(held.reason for held in self._held),
            tuple(held.detail for held in self._held[:EXAMPLES_MAX]),
        )

    def _add(
        self,
        items: Sequence[T],
        judge: Callable[[Sequence[T]], _Judged],
        unjudged: Callable[[T], Held],
    ) -> None:
        """One record that we cannot even judge must not stop all those around it."""
        try:
            judged = judge(items)
        except Exception:
            if len(items) == 1:
                log.exception("record_not_judged")
                self._held.append(unjudged(items[0]))
                return
            half = len(items) // 2
            self._add(items[:half], judge, unjudged)
            self._add(items[half:], judge, unjudged)
            return
        if judged.frame.height:
            self._frames.append(judged.frame)
            self._accepted_lines += judged.accepted_lines
        self._held += [
            held
            for held in judged.held
            if not self._known or content_digest(held) not in self._known
        ]
        for each in judged.traceparents:
            if len(self._traceparents) >= TRACES_MAX:
                break
            # One that is malformed ends its own record's trace, and nobody else's.
            if telemetry.is_traceparent(each):
                self._traceparents[each] = None

    def _judge_records(
        self, records: Sequence[UpstreamRecord], origin: str, large: frozenset[int]
    ) -> _Judged:
        opened = [
            _too_large(record) if record.offset in large else _opened(record) for record in records
        ]
        early = {
            index: _ahead(each)
            for index, each in enumerate(opened)
            if isinstance(each, Opened) and each.occurred_us > self._latest_us
        }
        values = [
            None if isinstance(each, Violation) or index in early else each.row
            for index, each in enumerate(opened)
        ]
        checked = self._checker.check(values)
        held: list[Held] = []
        for index in sorted(checked.refused):
            event = opened[index]
            fault = event if isinstance(event, Violation) else checked.refused[index]
            fault = early.get(index, fault)
            held.append(_held_record(records[index], event, fault, origin))
        events = [event for event in opened if isinstance(event, Opened)]
        traceparents = dict.fromkeys(each.traceparent for each in events if each.traceparent)
        kept = [opened[index] for index in checked.kept]
        own = {
            EVENT: [event.identity for event in kept if isinstance(event, Opened)],
            OCCURRED: [event.occurred_us for event in kept if isinstance(event, Opened)],
            POSITION: [records[index].offset for index in checked.kept],
        }
        return _Judged(_framed(checked, own), held, list(traceparents))

    def _judge_rows(self, rows: Sequence[Row]) -> _Judged:
        values = [row.value() if callable(row.value) else row.value for row in rows]
        checked = self._checker.check(values)
        held: list[Held] = []
        for index in sorted(checked.refused):
            value = values[index]
            fault = value if isinstance(value, Violation) else checked.refused[index]
            row = value.row if isinstance(value, Violation) else value
            held.append(_held_row(rows[index], fault, b"" if row is None else _json(row)))
        kept = [rows[index] for index in checked.kept]
        own = {
            EVENT: [row.identity for row in kept],
            OCCURRED: [row.occurred_us for row in kept],
            POSITION: [row.position for row in kept],
        }
        return _Judged(_framed(checked, own), held, [], sum(row.lines for row in kept))


def gather(
    checker: Checker,
    records: Sequence[UpstreamRecord],
    origin: str,
    known: frozenset[bytes] = frozenset(),
    latest_us: int = OCCURRED_US_MAX,
) -> Gathered:
    """A chunk of records, in one go; `known` and `latest_us` as in Gathering."""
    gathering = Gathering(checker, known, latest_us)
    gathering.add_records(records, origin)
    return gathering.finish()


def gather_rows(checker: Checker, rows: Sequence[Row]) -> Gathered:
    gathering = Gathering(checker)
    gathering.add_rows(rows)
    return gathering.finish()


def slices(items: Sequence[T], sizes: Sequence[int]) -> Iterator[Sequence[T]]:
    """In order, each of at most SLICE_BYTES_MAX unless one item alone is more."""
    begin = total = 0
    for at, size in enumerate(sizes):
        total += size
        if at > begin and (total > SLICE_BYTES_MAX or at - begin >= SLICE_ROWS_MAX):
            yield items[begin:at]
            begin, total = at, size
    if begin < len(items):
        yield items[begin:]


def record_bytes(record: UpstreamRecord) -> int:
    """What a record carries: its body and its headers."""
    size = len(record.value or b"")
    # A loop, as a generator takes half as long again: this runs for every record.
    for name, value in record.headers:
        size += len(name) + len(value or b"")
    return size


def _opened(record: UpstreamRecord) -> Opened | Violation:
    gap = unreadable(record.headers)
    if gap is not None:
        return Violation(
            "unreadable",
            f"At {gap.offsets} the log cannot be read. {gap.detail} What could be read of it is"
            " kept here as it came; publish its records again.",
        )
    return open_event(record)


def _ahead(event: Opened) -> Violation:
    at = EPOCH + timedelta(microseconds=min(event.occurred_us, LAST_SHOWN_US))
    return Violation(
        "future",
        f"It says that it occurred at {at:%Y-%m-%dT%H:%M:%SZ}, far ahead of the clock here, and"
        " would win over every later event of its key. Set the sender's clock; replayed, it counts"
        " as of when it came.",
    )


def _too_large(record: UpstreamRecord) -> Violation:
    return Violation(
        "too-large",
        f"The record has {record_bytes(record)} bytes; at most {RECORD_BYTES_MAX} are taken."
        f" Its first {OVERSIZED_BYTES_KEPT} are kept here. Publish what it says in less.",
    )


def read_held(parquet: bytes) -> list[Held]:
    return [Held(*row) for row in pl.read_parquet(io.BytesIO(parquet)).iter_rows()]


def content_digest(held: Held) -> bytes:
    """By which a held record that comes again is known: what it says, not where it lay."""
    return hashlib.sha256(
        b"%d %s%s" % (len(held.headers), held.headers.encode(), held.body)
    ).digest()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _held_record(
    record: UpstreamRecord, event: Opened | Violation, fault: Violation, origin: str
) -> Held:
    known = isinstance(event, Opened)
    body, headers = record.value or b"", record.headers
    if fault.reason == "too-large":
        body, headers = body[:OVERSIZED_BYTES_KEPT], ()
    elif fault.reason == "unreadable":
        headers = ()  # They are ours.
    coded = [[name, base64.b64encode(value or b"").decode()] for name, value in headers]
    return Held(
        position=record.offset,
        reason=fault.reason,
        detail=fault.detail,
        body=body,
        headers=orjson.dumps(coded).decode(),
        identity=event.identity if known else "",
        occurred_us=event.occurred_us if known else _occurred_us(record),
        row=_json(event.row) if known else b"",
        origin=f"{origin}/{record.offset}",
    )


def _held_row(row: Row, fault: Violation, value: bytes) -> Held:
    return Held(
        row.position,
        fault.reason,
        fault.detail,
        row.body,
        row.headers,
        row.identity,
        row.occurred_us,
        value,
        row.origin,
    )


def _unjudged_record(origin: str) -> Callable[[UpstreamRecord], Held]:
    return lambda record: _held_record(record, UNJUDGED, UNJUDGED, origin)


def _unjudged_row(row: Row) -> Held:
    return _held_row(row, UNJUDGED, b"")


def _occurred_us(record: UpstreamRecord) -> int:
    """Kafka's timestamp, where it is one."""
    return min(max(record.timestamp, 0) * 1_000, OCCURRED_US_MAX)


def _json(value: Any) -> bytes:
    """A copy, as orjson's own answer keeps 4 KB however short it is, and many are held."""
    return bytes(memoryview(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)))


def _framed(checked: Checked, own: dict[str, list[Any]]) -> pl.DataFrame:
    types = {EVENT: pl.String(), OCCURRED: pl.Int64(), POSITION: pl.Int64()}
    return checked.frame.with_columns(
        pl.Series(name, values, types[name]) for name, values in own.items()
    )


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=COMPRESSION_LEVEL)
    return buffer.getvalue()
