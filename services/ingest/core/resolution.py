"""What the journal says about records in quarantine, beside the streams that hold them.

    <tenant>/resolution/<lot>       which records of a lot were mended, or have left, and how
    <tenant>/quarantine/<id>        the same of one record, from before lots had resolutions

A lot is what one object of an entry holds, and has the name of its first record.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Literal, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict

from libs.common.stores.ports import Entry
from services.ingest.core.chunk import StoredChunk

KIND, RESOLUTION = "quarantine", "resolution"

State = Literal["held", "mended", "replayed", "discarded"]
STATES: tuple[State, ...] = get_args(State)
Way = Literal["replayed", "discarded"]
# Those who have not left.
WAITING: frozenset[State] = frozenset({"held", "mended"})


class Overlay(BaseModel):
    """What was done about one record before lots had resolutions, which are newer.

    mended   the digest of its new body, or empty
    """

    model_config = ConfigDict(frozen=True)

    state: State = "held"
    mended: str = ""


NOT_TOUCHED = Overlay()


class Leaving(BaseModel):
    """Records that are on their way out: claimed, and not yet known to be in the stream of replays.

    numbers   of those that leave: see `numbers.py`
    reasons   how many of them were held for each
    chunks    of the rows that are sent in
    """

    model_config = ConfigDict(frozen=True)

    way: Way
    numbers: str
    reasons: dict[str, int]
    chunks: tuple[StoredChunk, ...] = ()
    contract_revision: int = 0


class Resolution(BaseModel):
    """What was done about the records of a lot.

    left     how many of the replayed and discarded were held for each reason
    mended   an object of the bodies that records were given, each the latest of its record
    leaving  is finished before anything else is done about the lot
    """

    model_config = ConfigDict(frozen=True)

    replayed: str = ""
    discarded: str = ""
    left: dict[str, int] = {}
    mended: StoredChunk | None = None
    leaving: Leaving | None = None


NOTHING_DONE = Resolution()


def resolution_of(entry: Entry | None) -> Resolution:
    return Resolution.model_validate(entry.state, strict=False) if entry else NOTHING_DONE


def written_bodies(bodies: Mapping[int, bytes]) -> bytes:
    buffer = io.BytesIO()
    schema = {"number": pl.Int64(), "body": pl.Binary()}
    frame = pl.DataFrame(sorted(bodies.items()), schema=schema, orient="row")
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def read_bodies(parquet: bytes) -> dict[int, bytes]:
    return dict(pl.read_parquet(io.BytesIO(parquet), columns=["number", "body"]).iter_rows())
