"""Turns what becomes of the processes into the history of the platform."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from libs.common.history import Happening, HistoryFile

SUPERVISOR = "supervisor"
# What of a process's states is a fault; it lasts until the process is ready again.
FAULTS = ("died", "silent", "failed", "low")


class Recorder:
    """Passes each report on, and notes faults and their ends. All calls come from one thread."""

    def __init__(self, file: HistoryFile, report: Callable[[str, str, str], None]) -> None:
        self._file = file
        self._report = report
        self._wrong_since: dict[str, float] = {}

    def __call__(self, name: str, state: str, detail: str = "") -> None:
        self._report(name, state, detail)
        if state in FAULTS:
            self._wrong_since.setdefault(name, time.monotonic())
            self.note(name, state, detail)
        elif state == "ready" and name in self._wrong_since:
            took_s = time.monotonic() - self._wrong_since.pop(name)
            self.note(name, "restarted", mended_by=SUPERVISOR, took_s=took_s)

    def note(
        self, name: str, kind: str, detail: str = "", mended_by: str = "", took_s: float = 0.0
    ) -> None:
        self._file.note(Happening(datetime.now(UTC), name, kind, detail, mended_by, took_s))
