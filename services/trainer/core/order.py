"""What a training process is told: `order.json` in its folder."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from services.trainer.core.jobs import Job
from services.trainer.core.pipeline import Definition, from_document
from services.trainer.ports import Columns

ORDER_FILE = "order.json"
DATA_FILE = "data.parquet"
MANIFEST_FILE = "manifest.json"


class Order(BaseModel):
    """`definition` is the pipeline's, parameters of this job included."""

    model_config = ConfigDict(frozen=True)

    definition: dict[str, Any]
    job: str
    author: str
    responsible: tuple[str, ...] = ()
    trace_id: str
    dataset: str
    dataset_version: int
    dataset_manifest_sha256: str
    pipeline_revision: int
    key_columns: tuple[str, ...] = ()
    ignored_columns: tuple[str, ...] = ()
    checkpoint_every_s: float = 1.0

    @classmethod
    def of(
        cls, job: Job, definition: Definition, columns: Columns, checkpoint_every_s: float
    ) -> Order:
        return cls(
            definition=definition.document(),
            job=job.id,
            author=job.author,
            responsible=job.responsible,
            trace_id=job.trace_id,
            dataset=job.dataset,
            dataset_version=job.dataset_version,
            dataset_manifest_sha256=job.dataset_manifest_sha256,
            pipeline_revision=job.pipeline_revision,
            key_columns=columns.key,
            ignored_columns=columns.ignored,
            checkpoint_every_s=checkpoint_every_s,
        )

    @property
    def pipeline(self) -> Definition:
        return from_document(self.definition)
