"""Makes the rows of a dataset version out of chunks. The same events make the same bytes.

    events   every distinct event taken in so far, in the order of the streams; for the next version
    rows     what the version says: of a repeated business key the latest, ordered by key

An event that comes again is dropped by its identity, so neither a repeated nor (where events say
when they occurred) a shuffled stream changes the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from pydantic import BaseModel, ConfigDict

from services.ingest.core.chunk import EVENT, OCCURRED, POSITION
from services.ingest.core.contract import Column, Contract
from services.ingest.core.validation import schema

# Row groups of a fixed size: the bytes of a file must not depend on the machine's threads.
ROW_GROUP_ROWS = 65_536
COMPRESSION_LEVEL = 3
INDEX = "_index"
DECILES = tuple(tenth / 10 for tenth in range(11))
# Sums of floats differ in their last bits from one processor to another.
SIGNIFICANT_DIGITS = 12
HASH_PART_BYTES = 1024 * 1024


class ColumnSummary(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    type: str
    unit: str = ""
    role: str = "feature"
    null_count: int = 0
    distinct_count: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    standard_deviation: float | None = None
    deciles: tuple[float, ...] = ()


class StoredFile(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Assembled:
    rows: Path
    row_count: int
    events: Path
    event_count: int
    columns: tuple[ColumnSummary, ...]


def assemble(contract: Contract, parts: Sequence[Path], folder: Path) -> Assembled:
    """`parts` are Parquet files in the order of the streams. Takes CPU and memory: use a thread."""
    every = pl.concat([_projected(contract, part) for part in parts], how="vertical")
    events = every.unique(subset=EVENT, keep="first", maintain_order=True).collect()
    events_path = folder / "events.parquet"
    _write(events, events_path)
    event_count = events.height
    rows = _rows(contract, events)
    del events
    rows_path = folder / "rows.parquet"
    _write(rows, rows_path)
    columns = tuple(_summary(column, rows[column.name]) for column in contract.columns)
    return Assembled(rows_path, rows.height, events_path, event_count, columns)


def _projected(contract: Contract, part: Path) -> pl.LazyFrame:
    """A part under today's contract: columns that came later are null."""
    frame = pl.scan_parquet(part)
    present = frame.collect_schema().names()
    columns = [
        (pl.col(name) if name in present else pl.lit(None)).cast(frame_type).alias(name)
        for name, frame_type in schema(contract).items()
    ]
    return frame.select(*columns, EVENT, OCCURRED, POSITION)


def _rows(contract: Contract, events: pl.DataFrame) -> pl.DataFrame:
    """Which rows and in which order is decided on the few columns that matter, to spare memory."""
    names = [column.name for column in contract.columns]
    keys = list(contract.keys)
    if not keys:
        chosen = events.select(EVENT).with_row_index(INDEX).sort(EVENT)
    else:
        chosen = (
            events.select(*keys, OCCURRED)
            .with_row_index(INDEX)
            .sort(OCCURRED, maintain_order=True)
            .unique(subset=keys, keep="last", maintain_order=True)
            .sort(keys)
        )
    return events.select(names)[chosen[INDEX]]


def _write(frame: pl.DataFrame, path: Path) -> None:
    frame.rechunk().write_parquet(
        path,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        row_group_size=ROW_GROUP_ROWS,
    )


def _summary(column: Column, values: pl.Series) -> ColumnSummary:
    said: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "unit": column.unit,
        "role": column.role,
        "null_count": values.null_count(),
        "distinct_count": values.drop_nulls().n_unique(),
    }
    present = values.drop_nulls().sort()
    if column.numeric and present.len():
        said |= {
            "minimum": float(present[0]),
            "maximum": float(present[-1]),
            "mean": _rounded(present.mean()),
            "standard_deviation": _rounded(present.std(ddof=0)),
            "deciles": tuple(_rounded(present.quantile(tenth, "linear")) for tenth in DECILES),
        }
    return ColumnSummary(**said)


def _rounded(value: Any) -> float:
    return float(f"{float(value):.{SIGNIFICANT_DIGITS}g}")


def file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(HASH_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def canonical(manifest: dict[str, Any]) -> bytes:
    """JSON whose bytes depend on nothing but what it says."""
    return orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)
