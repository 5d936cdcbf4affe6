"""What the journal of this service holds: of each kind of aggregate, the class of its states."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from services.ingest.core import datasets, resolution, sources, streams
from services.ingest.core.sealed import Sealed

STATES: Mapping[str, type[BaseModel]] = {
    datasets.KIND: Sealed,
    resolution.KIND: resolution.Overlay,
    resolution.RESOLUTION: resolution.Resolution,
    sources.KIND: sources.SourceState,
    streams.KIND: streams.Committed,
}
