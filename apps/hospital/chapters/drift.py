"""5. From drift to a new version, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

from apps.hospital import measurements, upstream
from apps.hospital.story import (
    ACCURACY_MIN,
    CANARY_WEIGHT,
    DRIFT_S_MAX,
    HERE,
    MODEL,
    SHUFFLED,
    SOURCE,
    Story,
    accuracy,
)
from basalt.cli.watching import show_drift
from basalt.pb.basalt.v1 import inference_pb2, ingest_pb2, monitoring_pb2

# The newest window of live rows is to hold recalibrated measurements only.
ROUNDS_AFTER_RECALIBRATION = 2
# The door tells monitoring of calls once a second, with a bounded sample of that second's rows: on
# a quick machine those of several rounds would share it.
TOLD_EVERY_S = 1.0


async def tell(story: Story) -> None:
    story.stage.chapter(5, "The instrument is recalibrated: two features shift")
    engineer = story.people.engineer
    request = ingest_pb2.GetSourceRequest(name=SOURCE)
    topic = (await engineer.call(engineer.ingest.GetSource, request)).source.topic
    await story.publish(topic, upstream.after_recalibration(story.patients))
    for _ in range(ROUNDS_AFTER_RECALIBRATION):
        await asyncio.sleep(TOLD_EVERY_S)
        await story.predict_each(story.held_out.recalibrated())
    report = await story.stage.until(
        "monitoring sees the drift", lambda: _drift(story), within_s=DRIFT_S_MAX
    )
    show_drift(report)
    story.stage.check(
        report.drifted,
        f"monitoring names {', '.join(sorted(measurements.RECALIBRATED))}",
    )
    job = await story.follow(await story.job_for(dataset_version=2))
    story.stage.check(
        job.trigger in ("drift_detected", "dataset_versioned"),
        f"retraining started by itself ({job.trigger}), on {SOURCE} version 2",
    )
    await _second_version(story)
    await _shuffled_labels(story)
    await _rollback(story)


async def _drift(story: Story) -> monitoring_pb2.DriftReport | None:
    operator = story.people.operator
    request = monitoring_pb2.GetDriftReportRequest(model=MODEL)
    report = (await operator.call(operator.monitoring.GetDriftReport, request)).report
    drifted = {feature.feature for feature in report.features if feature.drifted}
    return report if drifted >= set(measurements.RECALIBRATED) else None


async def _second_version(story: Story) -> None:
    version = await story.gated(2)
    story.show_gates(version)
    story.stage.check(
        version.stage == inference_pb2.MODEL_STAGE_GATED, "version 2 passes every gate"
    )
    await story.approve(story.people.reviewer, 2)
    await story.deploy(2, CANARY_WEIGHT, "canary after recalibration")
    answers, _ = await story.predict_each(story.held_out.recalibrated())
    shares = {v: sum(a.model_version == v for a in answers) for v in ("1", "2")}
    story.stage.check(
        min(shares.values()) > 0, f"the canary answers {shares['2']} of {len(answers)} calls"
    )
    operator = story.people.operator
    request = inference_pb2.PromoteRequest(model=MODEL, reason="canary is well")
    answer = await operator.call(operator.deployments.Promote, request, timeout_s=60)
    await story.in_service(answer.deployment)
    answers, _ = await story.predict_each(story.held_out.recalibrated())
    right = accuracy(answers, story.held_out)
    story.stage.check(
        {a.model_version for a in answers} == {"2"} and right >= ACCURACY_MIN,
        f"version 2 answers everything, accuracy {right:.4f} on recalibrated measurements",
    )


async def _shuffled_labels(story: Story) -> None:
    engineer = story.people.engineer
    contract = (
        (HERE / "contract.yaml").read_text().replace(f"name: {SOURCE}", f"name: {SHUFFLED}", 1)
    )
    await engineer.call(
        engineer.ingest.PutSource,
        ingest_pb2.PutSourceRequest(name=SHUFFLED, contract_yaml=contract),
    )
    await engineer.send(engineer.ingest.UploadFile, _upload(story))
    await engineer.call(
        engineer.ingest.SealDataset,
        ingest_pb2.SealDatasetRequest(dataset=SHUFFLED, idempotency_key=uuid4().hex),
    )
    with story.stage.progress("training on shuffled labels", 1.0) as moved:
        await engineer.fit("tumour", dataset=SHUFFLED, on_progress=lambda j: moved(j.progress))
    version = await story.gated(3)
    refusal = next((gate.detail for gate in version.gates if not gate.passed), "")
    story.stage.check(
        version.stage == inference_pb2.MODEL_STAGE_REFUSED,
        f"version 3, trained on shuffled labels, is refused at the gate: {refusal}",
    )


async def _upload(story: Story) -> AsyncIterator[ingest_pb2.UploadFileRequest]:
    content = story.patients.recalibrated().shuffled_csv()
    yield ingest_pb2.UploadFileRequest(
        source=SHUFFLED, idempotency_key="shuffled", format=ingest_pb2.FILE_FORMAT_CSV
    )
    for start in range(0, len(content), 64 * 1024):
        yield ingest_pb2.UploadFileRequest(part=content[start : start + 64 * 1024])
    yield ingest_pb2.UploadFileRequest(last=True)


async def _rollback(story: Story) -> None:
    operator = story.people.operator
    began = time.monotonic()
    request = inference_pb2.RollbackRequest(model=MODEL, reason="the ward asks for it")
    answer = await operator.call(operator.deployments.Rollback, request, timeout_s=60)
    deployment = await story.in_service(answer.deployment)
    story.stage.check(
        [variant.version for variant in deployment.variants] == [1],
        f"rolled back to version 1, which answers again after {time.monotonic() - began:.1f} s",
    )
