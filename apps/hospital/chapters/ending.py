"""6. What remains: who served what, and one trace through everything."""

from __future__ import annotations

import time

from apps.hospital.story import JOURNEY_SPAN, MODEL, SETTLE_S_MAX, TRACED_SERVICES, Story
from basalt.cli.models import show_history
from basalt.cli.watching import span_tree
from basalt.pb.basalt.v1 import common_pb2, inference_pb2, monitoring_pb2

ASK_AGAIN_S = 10.0


async def tell(story: Story) -> None:
    story.stage.chapter(6, "Who served what, and one trace through everything")
    auditor = story.people.auditor
    request = inference_pb2.ListDeploymentHistoryRequest(page=common_pb2.PageRequest(size=100))
    answer = await auditor.call(auditor.deployments.ListDeploymentHistory, request)
    records = list(answer.records)
    show_history(records)
    story.stage.check(
        len(records) == 4 and all(r.approved_by and r.lineages for r in records),
        "every revision names its data and who approved it",
    )
    asked_at = float("-inf")

    async def whole_trace() -> list[monitoring_pb2.Span] | None:
        nonlocal asked_at
        # Triton does not send again what nobody took in, so a journey may have to be made again.
        if time.monotonic() - asked_at > ASK_AGAIN_S:
            asked_at = time.monotonic()
            await _journey(story)
        return await _whole_trace(story)

    spans = await story.stage.until("the trace is whole", whole_trace, within_s=SETTLE_S_MAX)
    story.stage.console.print(span_tree(story.upstream_trace, spans))
    story.stage.check(
        True, f"one trace, {len(spans)} spans, from the upstream's event to a prediction"
    )


async def _journey(story: Story) -> None:
    """The patient's journey goes on: their prediction belongs to the trace of their record."""
    await story.people.application.load_model(MODEL).predict(
        story.held_out.values[0], traceparent=f"00-{story.upstream_trace}-{JOURNEY_SPAN}-01"
    )


async def _whole_trace(story: Story) -> list[monitoring_pb2.Span] | None:
    auditor = story.people.auditor
    request = monitoring_pb2.GetTraceRequest(trace_id=story.upstream_trace)
    spans = list((await auditor.call(auditor.monitoring.GetTrace, request)).spans)
    services = {span.service for span in spans}
    predicted = any("ModelInfer" in span.name for span in spans)
    return spans if services >= TRACED_SERVICES and predicted else None
