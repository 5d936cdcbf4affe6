"""What the journal of this service holds: of each kind of aggregate, the class of its states."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from services.inference.core.deployments import Deployed
from services.inference.core.versions import ModelVersion, Numbering

STATES: Mapping[str, type[BaseModel]] = {
    "deployment": Deployed,
    "model": Numbering,
    "version": ModelVersion,
}
