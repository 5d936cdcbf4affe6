"""What inference hears: a training that completed."""

from __future__ import annotations

from libs.common import flow
from libs.common.bus import Router
from libs.common.events import TrainingCompleted
from services.inference.core.registration import Registration


def event_routes(registration: Registration) -> Router:
    router = Router("inference")

    @router.subscriber(flow.TRAINING_COMPLETED)
    async def register_candidate(event: TrainingCompleted) -> None:
        await registration.take(event)

    return router
