"""Events of what was served: once each, bounded, whatever becomes of Kafka."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from libs.common.clock import SystemClock
from libs.common.errors import DependencyError, InvalidInputError
from libs.common.events import PredictionsServed
from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from services.gateway.core.reporting import NUMBERS_MAX, Reporting
from services.gateway.dispatcher.recording import Counts, Sample, Sampler, Snapshot
from services.gateway.outbound.samples import ROWS_MAX, OpenInferenceSamples
from tests.unit.gateway.test_door import ROUTE, TABLE

KEY = ("acme", "m", "1")
TABLE_OF_TWO = TABLE.model_copy(
    update={"routes": (ROUTE.model_copy(update={"features": ("a", "b")}),)}
)


@dataclass
class Sink:
    published: list[PredictionsServed] = field(default_factory=list[PredictionsServed])
    failures: list[Exception] = field(default_factory=list[Exception])
    tried: list[str] = field(default_factory=list[str])

    async def publish(self, event: PredictionsServed) -> None:
        self.tried.append(event.id)
        if self.failures:
            raise self.failures.pop(0)
        self.published.append(event)


class Bench:
    def __init__(self) -> None:
        self.counts, self.sampler, self.sink = Counts(), Sampler(), Sink()
        self.reporting = Reporting(
            snapshot=self._snapshot,
            sampler=self.sampler,
            table=lambda: TABLE_OF_TWO,
            decoder=OpenInferenceSamples(),
            sink=self.sink,
            clock=SystemClock(),
            pause=lambda: asyncio.sleep(0),
        )

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.counts.copy(), 0, 0, self.sampler.dropped, 0, 0, 0, True)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def sample(x: np.ndarray, y: np.ndarray, trace_id: str = "") -> Sample:
    asked = pb.ModelInferRequest(raw_input_contents=[x.tobytes()])
    asked.inputs.add(name="x", datatype="FP32", shape=x.shape)
    answered = pb.ModelInferResponse(raw_output_contents=[y.tobytes(), (y + 1).tobytes()])
    answered.outputs.add(name="label", datatype="INT64", shape=y.shape)
    answered.outputs.add(name="other", datatype="INT64", shape=y.shape)
    return Sample(
        *KEY[:1], "app", *KEY[1:], "aa", "", trace_id, 1_000, asked.SerializeToString(),
        answered.SerializeToString(), "b7ad6b7169203331" if trace_id else "",
    )  # fmt: skip


X = np.array([[1, 2], [3, 4]], np.float32)
Y = np.array([[0], [1]], np.int64)


async def test_what_grew_is_told_once(bench: Bench) -> None:
    bench.counts.of(KEY).record(0, 0.001, 2)
    bench.counts.of(KEY).record(3, 0.002)
    bench.counts.of(("acme", "", "")).record(5, 0.001)
    await bench.reporting.report()
    await bench.reporting.report()
    (event,) = bench.sink.published
    assert (event.tenant, event.model, event.version) == ("acme", "m", 1)
    assert (event.requests, event.rows) == (2, 2)
    assert event.errors_by_code == {"INVALID_ARGUMENT": 1}
    assert sum(event.latency_ms_counts) == 2

    bench.counts.of(KEY).record(0, 0.001, 1)
    await bench.reporting.report()
    assert bench.sink.published[1].requests == 1
    assert bench.sink.published[1].errors_by_code == {}
    assert bench.sink.published[1].since >= event.until


async def test_while_kafka_is_away_the_same_event_is_tried_and_the_rest_adds_up(
    bench: Bench,
) -> None:
    away = DependencyError("Kafka is away.", which="kafka")
    bench.sink.failures = [away, away]
    bench.counts.of(KEY).record(0, 0.001, 1)
    for _ in range(2):
        with pytest.raises(DependencyError):
            await bench.reporting.report()
        bench.counts.of(KEY).record(0, 0.001, 1)
    await bench.reporting.report()
    await bench.reporting.report()
    assert len(set(bench.sink.tried[:3])) == 1
    assert [event.requests for event in bench.sink.published] == [1, 2]
    assert len({event.id for event in bench.sink.published}) == 2


async def test_an_event_that_can_never_be_published_does_not_block_the_rest(bench: Bench) -> None:
    bench.sink.failures = [InvalidInputError("too large")]
    bench.counts.of(KEY).record(0, 0.001)
    await bench.reporting.report()
    bench.counts.of(KEY).record(0, 0.001)
    await bench.reporting.report()
    assert bench.reporting.lost == 1
    assert len(bench.sink.published) == 1


async def test_samples_are_decoded_row_by_row(bench: Bench) -> None:
    bench.counts.of(KEY).record(0, 0.001, 2)
    bench.sampler.offer(sample(X, Y, "0af7651916cd43dd8448eb211c80319c"))
    bench.sampler.offer(sample(X[:, :1], Y))  # Not the features that the model has.
    await bench.reporting.report()
    (event,) = bench.sink.published
    (kept,) = event.samples
    assert kept.features == ((1.0, 2.0), (3.0, 4.0))
    assert kept.outputs == ((0.0, 1.0), (1.0, 2.0))
    assert kept.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_an_event_stays_below_kafkas_message_size(bench: Bench) -> None:
    wide = np.full((ROWS_MAX * 2, 2), 1 / 3, np.float32)
    labels = np.zeros((ROWS_MAX * 2, 1), np.int64)
    for _ in range(60):
        bench.counts.of(KEY).record(0, 0.001, 1)
        bench.sampler.offer(sample(wide, labels))
    await bench.reporting.report()
    (event,) = bench.sink.published
    numbers = sum(len(row) for each in event.samples for row in (*each.features, *each.outputs))
    assert 0 < numbers <= NUMBERS_MAX
    assert event.samples_dropped == 60 - len(event.samples)
    assert len(event.model_dump_json()) < 1024 * 1024


async def test_what_the_buffer_dropped_is_told(bench: Bench) -> None:
    bench.reporting.sampler = bench.sampler = Sampler(samples_max=1)
    for _ in range(3):
        bench.sampler.offer(sample(X, Y))
        bench.counts.of(KEY).record(0, 0.001, 2)
    await bench.reporting.report()
    assert bench.sink.published[0].samples_dropped == 2


def test_a_sample_of_typed_contents_is_read_and_nonsense_is_not() -> None:
    decoder = OpenInferenceSamples()
    whole = sample(X, Y)
    asked = pb.ModelInferRequest()
    asked.inputs.add(
        name="x", datatype="FP32", shape=[2, 2], contents={"fp32_contents": [1, 2, 3, 4]}
    )
    typed = Sample(
        "acme", "app", "m", "1", "aa", "", "", 0, asked.SerializeToString(), whole.answer
    )
    decoded = decoder.decode(typed, 2)
    assert decoded is not None
    assert decoded.features == ((1.0, 2.0), (3.0, 4.0))
    for request in (b"\xff", b""):
        broken = Sample("acme", "app", "m", "1", "aa", "", "", 0, request, whole.answer)
        assert decoder.decode(broken, 2) is None
