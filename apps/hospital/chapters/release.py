"""3. From a candidate to a signed model in service."""

from __future__ import annotations

from apps.hospital.story import Story
from basalt.cli.output import short
from basalt.pb.basalt.v1 import inference_pb2


async def tell(story: Story) -> None:
    story.stage.chapter(3, "Gates, four eyes, a signature, a deployment")
    version = await story.gated(1)
    story.show_gates(version)
    await story.stage.refused(
        "the author's own approval",
        story.approve(story.people.engineer, 1),
        "PERMISSION_DENIED",
    )
    signed = await story.approve(story.people.reviewer, 1)
    story.stage.check(
        signed.stage == inference_pb2.MODEL_STAGE_SIGNED,
        f"grace approves; security signs with key {short(signed.signed_by_key)}",
    )
    await story.deploy(1, 100, "first release")
