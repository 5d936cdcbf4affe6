"""The facts that make the trainer queue jobs."""

from __future__ import annotations

from libs.common import flow
from libs.common.bus import Router
from libs.common.events import DatasetVersioned, DriftDetected
from services.trainer.core.queueing import Queueing


def event_routes(queueing: Queueing) -> Router:
    router = Router("trainer")

    @router.subscriber(flow.DATASET_VERSIONED)
    async def dataset_versioned(event: DatasetVersioned) -> None:
        await queueing.dataset_versioned(event)

    @router.subscriber(flow.DRIFT_DETECTED)
    async def drift_detected(event: DriftDetected) -> None:
        await queueing.drift_detected(event)

    return router
