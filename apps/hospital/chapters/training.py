"""2. From a dataset version to a candidate."""

from __future__ import annotations

from apps.hospital.story import Story
from basalt.pb.basalt.v1 import trainer_pb2


async def tell(story: Story) -> None:
    story.stage.chapter(2, "The new dataset version starts training by itself")
    job = await story.job_for(dataset_version=1)
    story.stage.check(job.trigger == "dataset_versioned", f"job {job.id} queued by the event")
    job = await story.follow(job)
    story.stage.table(
        f"Job {job.id}",
        ("metric", "value"),
        ((metric.name, f"{metric.value:.4f}") for metric in job.metrics),
    )
    story.stage.check(
        job.state == trainer_pb2.JOB_STATE_COMPLETED,
        "trained in a process of its own, exported to ONNX, ONNX and the trained model agree",
    )
