"""A dataset version as the journal keeps it: the manifest of its rows, and what it covers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from services.ingest.core.assembly import ColumnSummary, StoredFile

FORMAT = "basalt.dataset/1"


class Manifest(BaseModel):
    """What the rows of a version are."""

    model_config = ConfigDict(frozen=True)

    format: str = FORMAT
    dataset: str
    version: int
    row_count: int
    key: tuple[str, ...]
    label: str | None
    columns: tuple[ColumnSummary, ...]
    files: tuple[StoredFile, ...]
    parents: tuple[str, ...]
    source_revision: int
    contract_sha256: str


class Sealed(BaseModel):
    """The state of a dataset after a version. `covers` says how far it goes in each stream."""

    model_config = ConfigDict(frozen=True)

    manifest: Manifest
    manifest_sha256: str
    covers: dict[str, int]
    events: StoredFile
    accepted_total: int
    duplicates_dropped: int
    quarantined: int
    trace_id: str
