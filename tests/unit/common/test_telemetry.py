"""Spans, what they say, and what they never say."""

from __future__ import annotations

import pytest

from libs.common import telemetry
from tests.support.tracing import Spans


def test_a_span_continues_the_trace_it_is_given(spans: Spans) -> None:
    with telemetry.span("first"):
        traceparent, trace_id = telemetry.traceparent(), telemetry.trace_id()
    with telemetry.span("second", under=traceparent):
        assert telemetry.trace_id() == trace_id

    (first,), (second,) = spans.named("first"), spans.named("second")
    assert first.context
    assert second.parent
    assert second.parent.span_id == first.context.span_id


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_what_is_no_traceparent_begins_a_trace(spans: Spans, traceparent: str) -> None:
    with telemetry.span("around"), telemetry.span("inside", under=traceparent):
        pass

    assert spans.named("inside")[0].parent is None
    assert len(spans.trace_ids()) == 2


def test_links_name_the_other_causes(spans: Spans) -> None:
    with telemetry.span("cause"):
        cause = telemetry.traceparent()
    with telemetry.span("effect", links=(cause, "", "nonsense")):
        pass

    (effect,) = spans.named("effect")
    assert [f"{link.context.trace_id:032x}" for link in effect.links] == [cause.split("-")[1]]


def test_attributes_have_the_conventions_names(spans: Spans) -> None:
    with telemetry.span(
        "named",
        basalt_tenant="acme",
        basalt_model_version=3,
        messaging_destination_name="topic",
        messaging_batch_message_count=2,
    ):
        pass

    assert dict(spans.named("named")[0].attributes or {}) == {
        telemetry.TENANT: "acme",
        telemetry.MODEL_VERSION: 3,
        "messaging.destination.name": "topic",
        "messaging.batch.message_count": 2,
    }


def test_an_error_is_told_by_its_class_and_never_by_its_text(spans: Spans) -> None:
    with pytest.raises(ValueError), telemetry.span("failing"):
        raise ValueError("password=hunter2")

    (span,) = spans.named("failing")
    assert span.status.description == "ValueError"
    assert (span.attributes or {})[telemetry.ERROR_TYPE] == "ValueError"
    assert "hunter2" not in span.to_json()


def test_what_was_said_of_a_failure_stays(spans: Spans) -> None:
    with pytest.raises(ValueError), telemetry.span("failing") as span:  # noqa: PT012
        telemetry.failed(span, "NOT_FOUND")
        raise ValueError

    assert spans.named("failing")[0].status.description == "NOT_FOUND"


def test_outside_of_a_trace_there_is_none() -> None:
    assert telemetry.trace_id() == telemetry.traceparent() == ""
