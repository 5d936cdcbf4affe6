"""What the process says to its worker: one JSON object a line, on what was standard output.

progress {step, fraction}    metrics {metrics}    log {line}    checkpoint {file}
finished {metrics}           refused {what, which, next_step}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

# Progress is said this often at the most.
PROGRESS_EVERY_S = 0.2


@dataclass(slots=True)
class Report:
    out: TextIO
    _said_at: float = field(default=0.0)
    _step: str = ""

    @classmethod
    def on_stdout(cls) -> Report:
        """Takes standard output for itself; what libraries print goes to the log instead."""
        out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(out)

    def progress(self, step: str, fraction: float) -> bool:
        """Whether it was said; a new step and the end of one always are."""
        now = time.monotonic()
        if step == self._step and fraction < 1.0 and now - self._said_at < PROGRESS_EVERY_S:
            return False
        self._step, self._said_at = step, now
        self._say(kind="progress", step=step, fraction=fraction)
        return True

    def metrics(self, metrics: Mapping[str, float]) -> None:
        self._say(kind="metrics", metrics=dict(metrics))

    def log(self, line: str) -> None:
        self._say(kind="log", line=line)

    def checkpoint(self, file: str) -> None:
        self._say(kind="checkpoint", file=file)

    def finished(self, metrics: Mapping[str, float]) -> None:
        self._say(kind="finished", metrics=dict(metrics))

    def refused(self, what: str, which: str, next_step: str, *, passes: bool = False) -> None:
        self._say(kind="refused", what=what, which=which, next_step=next_step, passes=passes)

    def _say(self, **document: object) -> None:
        self.out.write(json.dumps(document) + "\n")
        self.out.flush()
