"""One trace leads from an upstream's event to the prediction of the model that it trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from apps.hospital.story import JOURNEY_SPAN, MODEL, Story
from basalt.pb.basalt.v1 import monitoring_pb2
from tests.support.eventually import eventually
from tests.support.laptop import Laptop
from tests.support.telling import served_on
from tests.support.tracing import UPSTREAM

# Spans are sent twice a second, and read by polling.
TRACE_S_MAX = 30.0


class Edge(NamedTuple):
    """`by`: the topic, the RPC, or what a process of the same service is told to do."""

    caller: str
    callee: str
    by: str


# Whoever adds a service to the way from event to prediction adds a row.
EDGES = {
    Edge(UPSTREAM, "ingest", "upstream.hospital.patients"),
    Edge("ingest", "trainer", "dataset.versioned.v1"),
    Edge("trainer", "ingest", "basalt.v1.IngestService/GetSource"),
    Edge("trainer", "ingest", "basalt.v1.IngestService/ReadDataset"),
    Edge("trainer", "trainer", "train"),
    Edge("trainer", "inference", "training.completed.v1"),
    Edge("inference", "trainer", "basalt.v1.TrainerService/ReadCandidate"),
    Edge("inference", "monitoring", "model.gated.v1"),
    Edge("inference", "security", "basalt.v1.SigningService/GetSigningKeys"),
    Edge(UPSTREAM, "gateway", "inference.GRPCInferenceService/ModelInfer"),
    Edge("gateway", "triton", "InferRequest"),
}
# Asked for by whoever needs one first, in whichever trace that is.
TOKENS = "basalt.v1.IdentityService/IssueServiceToken"
# The training process, which is the trainer's own, yet another process.
PROCESSES = {"train"}


def edges(spans: Iterable[monitoring_pb2.Span]) -> set[Edge]:
    """From service to service; what continues a trace from outside is the upstream's."""
    by_id = {span.span_id: span for span in spans}
    found = set[Edge]()
    for span in by_id.values():
        parent = by_id.get(span.parent_span_id)
        caller = parent.service if parent else UPSTREAM
        if caller != span.service or span.name in PROCESSES:
            topic = span.attributes.get("messaging.destination.name")
            found.add(Edge(caller, span.service, topic or span.name))
    return {edge for edge in found if edge.by != TOKENS}


async def own_spans(story: Story) -> list[monitoring_pb2.Span]:
    """Of the trace itself, without the traces that are linked to it."""
    auditor = story.people.auditor
    request = monitoring_pb2.GetTraceRequest(trace_id=story.upstream_trace)
    answer = await auditor.call(auditor.monitoring.GetTrace, request)
    return [span for span in answer.spans if span.trace_id == story.upstream_trace]


async def test_one_trace_leads_from_the_event_to_the_prediction(own_laptop: Laptop) -> None:
    async with served_on(own_laptop) as story:
        await story.people.application.load_model(MODEL).predict(
            story.held_out.values[0], traceparent=f"00-{story.upstream_trace}-{JOURNEY_SPAN}-01"
        )

        async def whole() -> bool:
            assert edges(await own_spans(story)) == EDGES
            return True

        await eventually(whole, within_s=TRACE_S_MAX)
