"""What the journal of this service holds: of each kind of aggregate, the class of its states."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from services.trainer.core import jobs, pipelines, queueing
from services.trainer.core.pipeline import PipelineState

STATES: Mapping[str, type[BaseModel]] = {
    jobs.KIND: jobs.Job,
    pipelines.KIND: PipelineState,
    queueing.RETRAINING_KIND: queueing.Retraining,
    queueing.RUN_KIND: jobs.Job,
}
