from dataclasses import replace

import pytest

from libs.common import flow
from libs.common.errors import IntegrityError
from libs.common.events import ModelGated
from services.inference.core.gates import results_of
from services.inference.core.manifest import EVALUATION, GateLimits, Manifest
from services.inference.core.versions import GateResult, Stage
from services.inference.ports import Measurement
from tests.support.candidates import Candidate, contrary_model, good_model
from tests.support.registry import Registry, flip_one_bit


def judged(measured: Measurement, champion: str = "", **limits: object) -> dict[str, GateResult]:
    manifest = Manifest.model_validate_json(Candidate().manifest)
    changed = manifest.model_copy(update={"gates": GateLimits.model_validate(limits)})
    return {result.gate: result for result in results_of(measured, changed, champion)}


@pytest.fixture
def measured(registry: Registry) -> Measurement:
    return registry.measurement.answer


def test_every_gate_passes_a_good_candidate(measured: Measurement) -> None:
    results = judged(measured, accuracy_min=0.95)

    assert set(results) == {"format", "accuracy", "chance", "baseline", "latency"}
    assert all(result.passed for result in results.values())


@pytest.mark.parametrize(
    ("used", "least", "passed"),
    [(0.9, 0.5, True), (0.07, 0.5, False), (0.07, 0.0, True), (None, 0.5, False)],
)
def test_rows_that_were_left_out_are_told_and_may_be_too_many(
    measured: Measurement, used: float | None, least: float, passed: bool
) -> None:
    manifest = Manifest.model_validate_json(Candidate().manifest)
    changed = manifest.model_copy(
        update={
            "metrics": {} if used is None else {"rows_used": used},
            "gates": GateLimits(rows_used_min=least),
        }
    )
    (result,) = [each for each in results_of(measured, changed, "") if each.gate == "rows_used"]
    assert result.passed is passed
    assert ("It does not say" if used is None else f"{used:.1%} of the dataset's") in result.detail


def test_nobody_who_asks_for_no_accuracy_reads_of_one(measured: Measurement) -> None:
    assert "is asked for" not in judged(measured, accuracy_min=0)["accuracy"].detail


@pytest.mark.parametrize(("accuracy", "passed"), [(0.95, True), (0.9499, False)])
def test_accuracy(measured: Measurement, accuracy: float, passed: bool) -> None:
    result = judged(replace(measured, accuracy=accuracy), accuracy_min=0.95)["accuracy"]

    assert (result.passed, result.value, result.limit) == (passed, accuracy, 0.95)
    assert "100 rows" in result.detail


def test_whoever_answers_one_class_only_is_no_better_than_chance(measured: Measurement) -> None:
    result = judged(replace(measured, accuracy=0.99, balanced_accuracy=0.5))["chance"]

    assert not result.passed
    assert result.limit == 0.5


def test_the_baseline_may_be_missed_by_a_little(measured: Measurement) -> None:
    assert judged(replace(measured, accuracy=0.88), accuracy_drop_max=0.02)["baseline"].passed
    assert not judged(replace(measured, accuracy=0.87), accuracy_drop_max=0.02)["baseline"].passed


def test_worse_than_the_version_in_service(measured: Measurement) -> None:
    worse = replace(measured, champion_accuracy=0.995)

    result = judged(worse, champion="boxes version 1", accuracy_drop_max=0.01)["in_service"]

    assert not result.passed
    assert result.limit == pytest.approx(0.985)
    assert "boxes version 1" in result.detail


def test_a_version_in_service_that_cannot_answer_these_rows_is_no_hindrance(
    measured: Measurement,
) -> None:
    other = replace(measured, champion_objection="it needs colour, which is not there.")

    result = judged(other, champion="boxes version 1")["in_service"]

    assert result.passed
    assert "it needs colour" in result.detail


def test_fairness(measured: Measurement) -> None:
    limits = {"fairness": {"column": "age", "selection_rate_difference_max": 0.1}}
    apart = replace(measured, selection_rates={"old": 0.2, "young": 0.5})
    close = replace(measured, selection_rates={"old": 0.4, "young": 0.5})

    assert judged(close, **limits)["fairness"].passed
    refused = judged(apart, **limits)["fairness"]
    assert not refused.passed
    assert refused.value == pytest.approx(0.3)
    assert "young" in refused.detail
    assert "old" in refused.detail


def test_fairness_that_cannot_be_measured_refuses(measured: Measurement) -> None:
    unknown = replace(measured, group_objection="Its evaluation rows have no column age.")

    result = judged(unknown, fairness={"column": "age"})["fairness"]

    assert not result.passed
    assert result.detail == "Its evaluation rows have no column age."


def test_latency(measured: Measurement) -> None:
    result = judged(replace(measured, latency_ms_p99=7.0), latency_ms_p99_max=5)["latency"]

    assert not result.passed
    assert "7.000 ms" in result.detail


def test_a_file_that_must_not_be_served_is_refused_and_nothing_else_is_said() -> None:
    objection = "It needs operators that are not ONNX's own: evil."

    results = judged(Measurement(objections=(objection,)))

    assert list(results) == ["format"]
    assert results["format"].detail == objection


async def test_a_passed_candidate_waits_for_review(registry: Registry) -> None:
    version = await registry.gated(Candidate())

    assert version.stage is Stage.GATED
    # What the manifest claims (0.123) gives way to what was measured.
    assert version.metrics["accuracy"] == 0.97
    [event] = await gated_events(registry)
    assert (event.model, event.version, event.passed) == ("boxes", 1, True)


async def test_a_refused_candidate_says_why(registry: Registry) -> None:
    registry.measurement.answer = replace(registry.measurement.answer, accuracy=0.5)

    version = await registry.gated(Candidate())

    assert version.stage is Stage.REFUSED
    [event] = await gated_events(registry)
    assert not event.passed
    assert any("0.5000 were answered rightly" in refusal for refusal in event.refusals)


async def test_the_version_in_service_answers_the_candidates_rows(registry: Registry) -> None:
    await registry.signed(Candidate(onnx=good_model(scale=2.0)))
    await registry.rollout.deploy(
        "acme", "boxes", 1, weight=100, expected_revision=0, reason="", by="ops"
    )

    await registry.gated(Candidate(job="job-2", onnx=contrary_model()))

    asked = registry.measurement.asked[-1]
    assert asked.model == contrary_model()
    assert asked.champion == good_model(scale=2.0)


async def test_judging_twice_tells_it_once(registry: Registry) -> None:
    version = await registry.register(Candidate())

    await registry.gates.judge(version)
    await registry.gates.judge(version)

    assert len(await gated_events(registry)) == 1


async def test_a_damaged_candidate_does_not_keep_others_from_their_gates(
    registry: Registry,
) -> None:
    damaged = await registry.register(Candidate())
    await registry.register(Candidate(job="job-2", model="crates", onnx=good_model(scale=3.0)))
    flip_one_bit(registry.object_path(damaged, "model.onnx"))

    with pytest.raises(IntegrityError, match="of boxes version 1"):
        await registry.gates.work()

    assert (await registry.version(1, "crates")).stage is Stage.GATED


async def test_damaged_files_are_named(registry: Registry) -> None:
    version = await registry.register(Candidate())
    flip_one_bit(registry.object_path(version, EVALUATION))

    with pytest.raises(IntegrityError, match=r"evaluation\.parquet of boxes version 1"):
        await registry.gates.work()

    assert (await registry.version(1)).stage is Stage.CANDIDATE


async def gated_events(registry: Registry) -> list[ModelGated]:
    outgoing = [each for entry in await registry.store.unrelayed() for each in entry.outbox]
    return [
        ModelGated.model_validate_json(each.payload)
        for each in outgoing
        if each.topic == flow.MODEL_GATED.name
    ]
