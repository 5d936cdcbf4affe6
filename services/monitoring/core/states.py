"""What the journal of this service holds: of each kind of aggregate, the class of its states."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from services.monitoring.core import deadletters
from services.monitoring.core.alerts import Alert
from services.monitoring.core.watch import Drifting, Watched

STATES: Mapping[str, type[BaseModel]] = {
    "alerts": Alert,
    deadletters.KIND: deadletters.Letter,
    "drift": Drifting,
    "watch": Watched,
}
