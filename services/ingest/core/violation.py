"""Why a record is held in quarantine: one short word for counting, one sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["unparsable", "missing", "type", "unit", "range", "unknown-column", "envelope"]
REASONS: tuple[Reason, ...] = (
    "unparsable",
    "missing",
    "type",
    "unit",
    "range",
    "unknown-column",
    "envelope",
)
SHOWN_CHARACTERS_MAX = 80


@dataclass(frozen=True, slots=True)
class Violation:
    reason: Reason
    detail: str


def shown(value: object) -> str:
    """A value of a caller's record in an error message: readable, and never long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[: SHOWN_CHARACTERS_MAX - 1] + "…"
