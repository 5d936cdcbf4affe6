"""What the journal of this service holds: of each kind of aggregate, the class of its states."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from services.gateway.core import limits

STATES: Mapping[str, type[BaseModel]] = {limits.KIND: limits.Limits}
