from libs.common import telemetry
from services.inference.core.reconciler import Reconciler
from tests.support.candidates import Candidate
from tests.support.registry import Registry
from tests.support.tracing import Spans


async def test_gates_and_load_belong_to_the_trace_of_the_training(
    registry: Registry, spans: Spans
) -> None:
    with telemetry.span("training completed") as training:
        await registry.register(Candidate())
    trace_id = training.get_span_context().trace_id
    await registry.gates.work()
    await registry.review.approve("acme", "boxes", 1, "bob", "")
    await registry.rollout.deploy(
        "acme", "boxes", 1, weight=100, expected_revision=0, reason="", by="ops"
    )
    reconciler: Reconciler = registry.reconciler

    await reconciler.round()
    await reconciler.stop()

    for name in ("GateModelVersion", "LoadModelVersion"):
        [span] = spans.named(name)
        assert span.context is not None
        assert span.context.trace_id == trace_id
        assert span.attributes is not None
        assert span.attributes[telemetry.MODEL] == "boxes"
