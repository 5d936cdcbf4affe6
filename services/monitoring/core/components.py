"""What the platform is made of, and how each part is."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class State(enum.IntEnum):
    """The numbers of the contract's HealthState: the greater, the worse."""

    SERVING = 1
    DEGRADED = 2
    NOT_SERVING = 3


@dataclass(frozen=True, slots=True)
class Component:
    """A service or a dependency; `problem` says what is wrong and what next."""

    name: str
    state: State
    problem: str
    checked_at: datetime
    reported_by: str
