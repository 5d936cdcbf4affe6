"""What monitoring hears on Kafka."""

from __future__ import annotations

from libs.common import flow
from libs.common.bus import Delivery, Router
from libs.common.events import (
    DeploymentChanged,
    ForeignModelFound,
    ModelGated,
    ModelSigned,
    PredictionsServed,
    TrainingFailed,
)
from services.monitoring.core.deadletters import Burial, DeadLetters
from services.monitoring.core.news import News
from services.monitoring.core.recording import Recording
from services.monitoring.core.watch import DriftWatch


def event_routes(
    recording: Recording, watch: DriftWatch, news: News, letters: DeadLetters
) -> Router:
    router = Router("monitoring")

    @router.subscriber(flow.PREDICTIONS_SERVED)
    async def record_predictions(event: PredictionsServed) -> None:
        await recording.take(event)

    @router.subscriber(flow.DEPLOYMENT_CHANGED)
    async def watch_deployment(event: DeploymentChanged) -> None:
        await watch.deployed(event)

    @router.subscriber(flow.TRAINING_FAILED)
    async def tell_failure(event: TrainingFailed) -> None:
        await news.training_failed(event)

    @router.subscriber(flow.MODEL_GATED)
    async def tell_gates(event: ModelGated) -> None:
        await news.model_gated(event)

    @router.subscriber(flow.MODEL_SIGNED)
    async def tell_signature(event: ModelSigned) -> None:
        await news.model_signed(event)

    @router.subscriber(flow.FOREIGN_MODEL)
    async def tell_foreign_model(event: ForeignModelFound) -> None:
        await news.foreign_model(event)

    async def keep_dead_letter(delivery: Delivery) -> None:
        await letters.take(
            Burial(
                topic=delivery.topic,
                partition=delivery.partition,
                offset=delivery.offset,
                key=delivery.key,
                body=delivery.body,
                headers=delivery.headers,
            )
        )

    router.dead_letters(keep_dead_letter)
    return router
