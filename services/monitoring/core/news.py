"""What people want to hear of training and of models, as alerts."""

from __future__ import annotations

from dataclasses import dataclass

from libs.common.events import ForeignModelFound, ModelGated, ModelSigned, TrainingFailed
from libs.common.identity import PLATFORM
from services.monitoring.core.alerts import Alerts

REFUSALS_TOLD_MAX = 5


@dataclass(frozen=True, slots=True)
class News:
    """One alert an event, however often it is delivered."""

    alerts: Alerts

    async def training_failed(self, event: TrainingFailed) -> None:
        await self.alerts.raise_once(
            event.tenant,
            event.id,
            "warning",
            "training.failed",
            f"{event.pipeline}/{event.job}",
            f"The job {event.job} of the pipeline {event.pipeline} failed: {event.failure}",
        )

    async def model_gated(self, event: ModelGated) -> None:
        subject = f"{event.model}/{event.version}"
        if event.passed:
            await self.alerts.raise_once(
                event.tenant,
                event.id,
                "info",
                "model.gated",
                subject,
                f"Version {event.version} of {event.model} passed its gates and waits for a review"
                " by somebody other than its author.",
            )
            return
        reasons = "; ".join(event.refusals[:REFUSALS_TOLD_MAX]) or "no reason was given"
        await self.alerts.raise_once(
            event.tenant,
            event.id,
            "warning",
            "model.refused",
            subject,
            f"Version {event.version} of {event.model} was refused at a gate: {reasons}.",
        )

    async def model_signed(self, event: ModelSigned) -> None:
        await self.alerts.raise_once(
            event.tenant,
            event.id,
            "info",
            "model.signed",
            f"{event.model}/{event.version}",
            f"Version {event.version} of {event.model} was approved by {event.approved_by} and"
            " signed: it may be deployed.",
        )

    async def foreign_model(self, event: ForeignModelFound) -> None:
        """The platform's own people hear of it whoever is concerned: somebody reaches Triton."""
        for tenant in dict.fromkeys((event.tenant, PLATFORM)):
            await self.alerts.raise_once(
                tenant,
                event.id,
                "critical",
                "model.foreign",
                event.name,
                f"Something that inference did not load answered as {event.name} in Triton and was"
                f" taken out: {event.what} What was signed is loaded instead where it is deployed."
                " Who operates the platform has to find out who reaches Triton.",
            )
