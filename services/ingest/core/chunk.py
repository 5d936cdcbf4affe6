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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import polars as pl
import structlog
from pydantic import BaseModel, ConfigDict

from services.ingest.core.cloudevents import Opened, open_event
from services.ingest.core.validation import Checked, Checker
from services.ingest.core.violation import Violation
from services.ingest.ports import UpstreamRecord

EVENT, OCCURRED, POSITION = "_event", "_occurred", "_position"
CHUNK_ROWS_MAX = 20_000
CHUNK_BYTES_MAX = 8 * 1024 * 1024
RECORD_BYTES_MAX = 1024 * 1024
TRACES_MAX = 8
COMPRESSION_LEVEL = 1  # Chunks are read once or twice: quick matters more than small.

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
    """A record with its envelope opened; `value` is a JSON value, or why there is none."""

    position: int
    identity: str
    occurred_us: int
    value: Any
    body: bytes
    origin: str
    headers: str = "[]"


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


def gather(checker: Checker, records: Sequence[UpstreamRecord], origin: str) -> Gathered:
    """`origin` is "<topic>/<partition>": where the records came from. Takes CPU: use a thread."""
    traceparents: dict[str, None] = {}
    values: list[Any] = []
    opened: list[Opened | Violation] = []
    for record in records:
        event = _opened(record)
        opened.append(event)
        if isinstance(event, Violation):
            values.append(None)
            continue
        values.append(event.row)
        if event.traceparent and len(traceparents) < TRACES_MAX:
            traceparents[event.traceparent] = None
    checked = checker.check(values)
    held: list[Held] = []
    for index in sorted(checked.refused):
        event = opened[index]
        fault = event if isinstance(event, Violation) else checked.refused[index]
        held.append(_held_record(records[index], event, fault, origin))
    kept = [opened[index] for index in checked.kept]
    own = {
        EVENT: [event.identity for event in kept if isinstance(event, Opened)],
        OCCURRED: [event.occurred_us for event in kept if isinstance(event, Opened)],
        POSITION: [records[index].offset for index in checked.kept],
    }
    return _gathered(checked, own, held, list(traceparents))


def _opened(record: UpstreamRecord) -> Opened | Violation:
    try:
        return open_event(record)
    except Exception:
        # One record that we cannot even judge must not stop all those behind it.
        log.exception("record_not_judged", offset=record.offset)
        return Violation("unparsable", "The message could not be read. Mend it as a JSON object.")


def gather_rows(checker: Checker, rows: Sequence[Row]) -> Gathered:
    """The same for rows that did not come through Kafka. Takes CPU: use a thread."""
    checked = checker.check([row.value for row in rows])
    held: list[Held] = []
    for index in sorted(checked.refused):
        row = rows[index]
        known = not isinstance(row.value, Violation)
        fault = checked.refused[index] if known else row.value
        held.append(
            Held(
                row.position,
                fault.reason,
                fault.detail,
                row.body,
                row.headers,
                row.identity,
                row.occurred_us,
                _json(row.value) if known else b"",
                row.origin,
            )
        )
    kept = [rows[index] for index in checked.kept]
    own = {
        EVENT: [row.identity for row in kept],
        OCCURRED: [row.occurred_us for row in kept],
        POSITION: [row.position for row in kept],
    }
    return _gathered(checked, own, held, [])


def read_held(parquet: bytes) -> list[Held]:
    return [Held(*row) for row in pl.read_parquet(io.BytesIO(parquet)).iter_rows()]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _held_record(
    record: UpstreamRecord, event: Opened | Violation, fault: Violation, origin: str
) -> Held:
    known = isinstance(event, Opened)
    headers = [[name, base64.b64encode(value or b"").decode()] for name, value in record.headers]
    return Held(
        position=record.offset,
        reason=fault.reason,
        detail=fault.detail,
        body=record.value or b"",
        headers=orjson.dumps(headers).decode(),
        identity=event.identity if known else "",
        occurred_us=event.occurred_us if known else record.timestamp * 1_000,
        row=_json(event.row) if known else b"",
        origin=f"{origin}/{record.offset}",
    )


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)


def _gathered(
    checked: Checked, own: dict[str, list[Any]], held: list[Held], traceparents: list[str]
) -> Gathered:
    accepted = b""
    if checked.kept:
        types = {EVENT: pl.String(), OCCURRED: pl.Int64(), POSITION: pl.Int64()}
        frame = checked.frame.with_columns(
            pl.Series(name, values, types[name]) for name, values in own.items()
        )
        accepted = _parquet(frame)
    refused = b""
    if held:
        refused = _parquet(pl.DataFrame(held, schema=HELD_TYPES, orient="row"))
    return Gathered(accepted, len(checked.kept), refused, len(held), traceparents)


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=COMPRESSION_LEVEL)
    return buffer.getvalue()
