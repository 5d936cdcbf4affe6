"""Moments in time, as records say them: RFC 3339, no finer than a microsecond.

A time without an offset, or a date alone, is a moment only where the column names its time zone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECONDS = 1_000_000
NOT_KEPT = re.compile(r"[.,][0-9]{6}0*[1-9]")


def microseconds(at: datetime) -> int:
    """Since 1970 in UTC."""
    return round(at.timestamp() * MICROSECONDS)


class MomentError(ValueError):
    """Why it is no moment, as the rest of a sentence."""


@lru_cache(maxsize=256)
def zone_of(name: str) -> ZoneInfo | None:
    """None for a name that is not known."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def is_plain(text: object) -> bool:
    """Whether it is surely a moment, whatever its column's zone; a quick look."""
    if text is None:
        return True
    try:
        at = datetime.fromisoformat(text)  # pyright: ignore[reportArgumentType] - others raise.
    except (TypeError, ValueError):
        return False
    return at.tzinfo is not None and not _is_finer(str(text))


def _is_finer(text: str) -> bool:
    # Most have no fraction.
    return ("." in text or "," in text) and NOT_KEPT.search(text) is not None


def moment(text: object, zone: str) -> datetime:
    """Raises MomentError. `zone` is of times without an offset; "" where they are no moments."""
    if not isinstance(text, str):
        raise MomentError("which is no text")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise MomentError("which is no time in RFC 3339") from None
    if _is_finer(text):
        raise MomentError("which is finer than a microsecond; round it")
    if at.tzinfo is not None:
        return at
    place = zone_of(zone) if zone else None
    if place is None:
        raise MomentError(
            "which has no offset. Send one, such as Z, or give the column its `timezone` in the"
            " contract"
        )
    first = at.replace(tzinfo=place)
    if first.astimezone(UTC).astimezone(place).replace(tzinfo=None) != at:
        raise MomentError(f"which no clock in {zone} showed: it was put forward. Send its offset")
    if first.utcoffset() != at.replace(tzinfo=place, fold=1).utcoffset():
        raise MomentError(f"which clocks in {zone} showed twice. Send its offset")
    return first
