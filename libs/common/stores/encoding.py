"""A journal entry as bytes, alike in every store: what is read back is what was appended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from libs.common.errors import InvalidInputError
from libs.common.stores.ports import ENTRY_BYTES_MAX, Entry, Outgoing

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state as it will be read back: tuples are lists, times are text.

    Numbers that are none, or infinite, are text too, since JSON has only null for them: "NaN".
    Raises InvalidInputError for what is not JSON.
    """
    try:
        return orjson.loads(orjson.dumps(_sayable(state)))
    except TypeError as error:
        raise InvalidInputError(f"A journal entry's state is not JSON: {error}.") from error


def _sayable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else _named(value)
    if isinstance(value, Mapping):
        return {name: _sayable(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(each) for each in value]
    return value


def _named(value: float) -> str:
    """As pydantic reads it."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def encoded(entry: Entry) -> tuple[bytes, bytes]:
    """State and outbox. Raises InvalidInputError when they are too large together."""
    state = orjson.dumps(dict(entry.state))
    outbox = orjson.dumps(entry.outbox)
    if len(state) + len(outbox) > ENTRY_BYTES_MAX:
        raise InvalidInputError(
            f"A journal entry of {len(state) + len(outbox)} bytes is over {ENTRY_BYTES_MAX}.",
            which=entry.aggregate,
            next_step="Keep what is large as an object and name it in the entry.",
        )
    return state, outbox


def decoded_outbox(outbox: bytes | str) -> tuple[Outgoing, ...]:
    rows: Sequence[dict[str, str]] = orjson.loads(outbox)
    return tuple(Outgoing(**row) for row in rows)


def to_us(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_us(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)
