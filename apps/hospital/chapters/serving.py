"""4. From a signed model to predictions."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from apps.hospital.measurements import Patients
from apps.hospital.stage import StoryError
from apps.hospital.story import ACCURACY_MIN, MODEL, Story, accuracy
from basalt.aio import AsyncClient
from basalt.cli.output import short
from basalt.pb.inference import grpc_inference_service_pb2 as oip

REST_S_MAX = 30.0
REST_AGAIN_S = 0.3
# Too many requests, nobody there, no answer in time: the same may pass later.
MAY_PASS = (429, 503, 504)


async def tell(story: Story) -> None:
    story.stage.chapter(4, "The ward's application asks for 169 held-out patients")
    answers, latencies_ms = await story.predict_each(story.held_out)
    right = accuracy(answers, story.held_out)
    story.stage.table(
        "Over gRPC, one patient a call",
        ("patients", "accuracy", "p50 ms", "p99 ms", "model version", "digest"),
        (
            (
                len(answers),
                f"{right:.4f}",
                f"{np.percentile(latencies_ms, 50):.2f}",
                f"{np.percentile(latencies_ms, 99):.2f}",
                answers[0].model_version,
                short(answers[0].manifest_sha256),
            ),
        ),
    )
    story.stage.check(right >= ACCURACY_MIN, f"accuracy {right:.4f} ≥ {ACCURACY_MIN}")
    story.stage.check(
        all(a.model_version == "1" and len(a.manifest_sha256) == 64 for a in answers),
        "each answer names its model version and the digest of its manifest",
    )
    described = await story.people.application.load_model(MODEL).describe()
    rest = await asyncio.to_thread(_predict_by_rest, story, story.held_out)
    agree = [str(a.labels[0]) for a in answers] == [described.classes[c] for c in rest]
    story.stage.check(agree, f"REST gives the same {len(rest)} answers")
    await _refusals(story)


def _predict_by_rest(story: Story, patients: Patients) -> list[int]:
    """The classes of all patients, by one call."""
    rows = patients.values.astype(np.float32)
    answer = _post(story, rows.tolist(), story.people.application_key)
    return next(o["data"] for o in answer["outputs"] if o["name"] == "label")


def _post(story: Story, rows: list[list[float]], token: str) -> dict[str, Any]:
    body = {
        "inputs": [
            {
                "name": "features",
                "datatype": "FP32",
                "shape": [len(rows), len(rows[0])],
                "data": rows,
            }
        ]
    }
    request = urllib.request.Request(
        f"http://{story.door}/v2/models/{MODEL}/infer",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    give_up_at = time.monotonic() + REST_S_MAX
    while True:
        try:
            with urllib.request.urlopen(request, timeout=REST_S_MAX) as answer:  # noqa: S310 - our own door.
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError) as refusal:
            passes = getattr(refusal, "code", 503) in MAY_PASS
            if not passes or time.monotonic() > give_up_at:
                raise StoryError(f"REST answers {_told(refusal)}") from refusal
        time.sleep(REST_AGAIN_S)


def _told(refusal: Exception) -> str:
    if isinstance(refusal, urllib.error.HTTPError):
        return f"{refusal.code}: {refusal.read().decode()}"
    return str(refusal)


async def _refusals(story: Story) -> None:
    rows = story.held_out.values[:1].astype(np.float32)
    async with AsyncClient(story.door, token="") as stranger:
        await story.stage.refused("no token", _infer(stranger, rows), "UNAUTHENTICATED")
    await story.stage.refused(
        "another tenant's token", _infer(story.people.neighbour, rows), "NOT_FOUND"
    )
    await story.stage.refused(
        "a malformed tensor",
        _infer(story.people.application, rows, shape=[1, rows.shape[1] + 1]),
        "INVALID_ARGUMENT",
    )


async def _infer(client: AsyncClient, rows: Any, shape: list[int] | None = None) -> None:
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="features", datatype="FP32", shape=shape or list(rows.shape)
    )
    await client.call(
        client.inference.ModelInfer,
        oip.ModelInferRequest(
            model_name=MODEL, inputs=[tensor], raw_input_contents=[rows.tobytes()]
        ),
    )
