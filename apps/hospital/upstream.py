"""The hospital's system: publishes each patient's record as a CloudEvent, as it would anyway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from apps.hospital.measurements import Patients
from libs.common import telemetry
from libs.common.kafka import KafkaAccess

SOURCE = "/hospital/pathology"
EVENT_TYPE = "hospital.patient.measured"
UNPARSABLE = b'{"patient_id": "patient-9999", "mean_radius": 14.1, '
DUPLICATES = 3


@dataclass(frozen=True)
class Message:
    event_id: str
    body: bytes


def first_delivery(patients: Patients) -> list[Message]:
    """400 messages for 396 patients: three come twice, and three are not what was agreed."""
    messages = [
        _message(f"measured-{index}", patients.record(index)) for index in range(len(patients))
    ]
    wrong_unit = patients.record(10)
    wrong_unit["mean_radius"] = {"value": wrong_unit["mean_radius"] / 1000, "unit": "m"}
    messages[10] = _message("measured-10", wrong_unit)
    missing = patients.record(20)
    del missing["worst_area"]
    messages[20] = _message("measured-20", missing)
    messages[30:30] = messages[:DUPLICATES]
    messages.insert(40, Message("measured-unparsable", UNPARSABLE))
    return messages


def after_recalibration(patients: Patients) -> list[Message]:
    """The patients measured again, with the instrument as it reads now."""
    measured = patients.recalibrated()
    return [
        _message(f"remeasured-{index}", measured.record(index)) for index in range(len(measured))
    ]


def _message(event_id: str, record: dict[str, Any]) -> Message:
    return Message(event_id, json.dumps(record).encode())


async def publish(
    access: KafkaAccess, topic: str, messages: list[Message], on_sent: Callable[[], object]
) -> str:
    """Publishes one by one, each acknowledged, in one trace; returns the trace's id."""
    producer = AIOKafkaProducer(
        **access.for_aiokafka(), acks="all", enable_idempotence=True, client_id="hospital"
    )
    try:
        await producer.start()
        with telemetry.tracer().start_as_current_span("deliver records", kind=SpanKind.PRODUCER):
            for message in messages:
                await producer.send_and_wait(
                    topic,
                    message.body,
                    key=message.event_id.encode(),
                    headers=list(_headers(message)),
                )
                on_sent()
            return f"{trace.get_current_span().get_span_context().trace_id:032x}"
    finally:
        await producer.stop()


def _headers(message: Message) -> Iterator[tuple[str, bytes]]:
    """CloudEvents 1.0, binary mode."""
    yield "ce_specversion", b"1.0"
    yield "ce_id", message.event_id.encode()
    yield "ce_source", SOURCE.encode()
    yield "ce_type", EVENT_TYPE.encode()
    yield "content-type", b"application/json"
    yield "traceparent", telemetry.traceparent().encode()
