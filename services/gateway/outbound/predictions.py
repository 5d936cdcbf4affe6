"""Publishes what was served, as CloudEvents on Kafka."""

from __future__ import annotations

from libs.common.bus import Bus
from libs.common.events import PredictionsServed
from libs.common.flow import PREDICTIONS_SERVED


class KafkaPredictions:
    """A part of the runtime that ends the producer; it connects with the first event."""

    name = "kafka"

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def start(self) -> None:
        """Kafka may come later: the door does not wait for it."""

    async def stop(self) -> None:
        await self._bus.stop()

    async def publish(self, event: PredictionsServed) -> None:
        # Without a span: one a second would hide the traces that somebody asked for.
        headers = {
            "ce_specversion": "1.0",
            "ce_id": event.id,
            "ce_type": PREDICTIONS_SERVED.name,
            "ce_source": "/basalt/gateway",
            "content-type": "application/json",
        }
        body = event.model_dump_json().encode()
        await self._bus.send(
            PREDICTIONS_SERVED.name, PREDICTIONS_SERVED.key_of(event), body, headers
        )
