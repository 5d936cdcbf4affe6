"""What the journal of this service holds: of each kind of aggregate, the class of its states."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from libs.common.events import ForeignModelFound
from services.inference.core.deployments import Deployed
from services.inference.core.versions import ModelVersion, Numbering

STATES: Mapping[str, type[BaseModel]] = {
    "deployment": Deployed,
    "finding": ForeignModelFound,
    "model": Numbering,
    "version": ModelVersion,
}
