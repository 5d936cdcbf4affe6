"""A clock that tests hold in their hands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from libs.common.clock import SystemClock


class HeldClock(SystemClock):
    """Time that stands still, from when it was made, and moves when the test says so."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def pass_s(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
