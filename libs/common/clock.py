"""Time and identifiers as dependencies, so that a test can hold them still."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from ulid import ULID


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock, in UTC. It may jump: it never decides who is right."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow, for measuring how long something took."""
        ...

    def new_id(self) -> str:
        """A unique identifier of 26 characters that sorts by the time it was made."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> str:
        return str(ULID())
