"""Why a record is held in quarantine: one short word for counting, one sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Reason = Literal[
    "unparsable",
    "missing",
    "type",
    "unit",
    "range",
    "unknown-column",
    "envelope",
    "too-large",
    "unreadable",
    "doubtful",
    "future",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
# Of these there is no row that could be sent in as it is.
WITHOUT_A_ROW: frozenset[str] = frozenset({"envelope", "unparsable", "too-large", "unreadable"})
SHOWN_CHARACTERS_MAX = 80


@dataclass(frozen=True, slots=True)
class Violation:
    """`row` is the row in it all the same, where there is one that may be taken as it is."""

    reason: Reason
    detail: str
    row: object = None


def shown(value: object) -> str:
    """A value of a caller's record in an error message: readable, and never long."""
    if isinstance(value, str | bytes):
        value = value[:SHOWN_CHARACTERS_MAX]  # So that a long one is not copied for its beginning.
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[: SHOWN_CHARACTERS_MAX - 1] + "…"
