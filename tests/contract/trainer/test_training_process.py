"""The training process by itself: a folder in, a candidate's files out."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import onnxruntime
import polars as pl
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.trainer.outbound.process import ProcessTraining
from services.trainer.outbound.workplace import FolderPlace
from services.trainer.ports import (
    Checkpointed,
    Exited,
    Finished,
    Message,
    ProcessLimits,
    Progressed,
    Refused,
)
from tests.support.eventually import eventually
from tests.support.training import PIPELINE, flowers, order, patients

LIMITS = ProcessLimits(time_s=120.0, memory_bytes=4 << 30, threads=1)


async def run(
    folder: Path,
    limits: ProcessLimits = LIMITS,
    on_message: Callable[[Message], None] = lambda _: None,
) -> list[Message]:
    messages: list[Message] = []
    async for message in ProcessTraining().run(FolderPlace(folder), limits, ""):
        messages.append(message)
        on_message(message)
    return messages


def refusal(messages: list[Message]) -> Refused:
    exited = messages[-1]
    assert isinstance(exited, Exited)
    assert exited.code == 1
    return next(message for message in messages if isinstance(message, Refused))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


async def test_a_candidate_holds_what_its_manifest_says(tmp_path: Path) -> None:
    order(tmp_path, patients())
    messages = await run(tmp_path)
    finished = next(message for message in messages if isinstance(message, Finished))
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert finished.metrics == manifest["metrics"]
    assert manifest["metrics"]["accuracy"] > 0.85
    assert {*manifest["baseline_metrics"], "rows_used"} == set(manifest["metrics"])
    assert manifest["author"] == "ann"
    assert manifest["classes"] == ["benign", "malignant"]
    assert len(manifest["features"]) == 30  # The key is none of them.
    assert {file["name"] for file in manifest["files"]} == {
        "model.onnx",
        "reference.parquet",
        "evaluation.parquet",
        "card.md",
    }
    for file in manifest["files"]:
        assert digest(tmp_path / file["name"]) == file["sha256"]
    fractions = [message.fraction for message in messages if isinstance(message, Progressed)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


async def test_the_model_answers_for_three_classes_from_raw_values(tmp_path: Path) -> None:
    definition = PIPELINE.replace("label: diagnosis", "label: species")
    order(tmp_path, flowers(), definition)
    await run(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert manifest["classes"] == ["setosa", "versicolor", "virginica"]
    evaluation = pl.read_parquet(tmp_path / "evaluation.parquet")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    features = evaluation.select(manifest["features"]).to_numpy().astype(np.float32)
    labels, probabilities = (
        np.asarray(each) for each in session.run(["label", "probabilities"], {"features": features})
    )
    assert labels.dtype == np.int64
    assert probabilities.shape == (len(evaluation), 3)
    assert probabilities.dtype == np.float32
    accuracy = float((labels == evaluation["label"].to_numpy()).mean())
    assert accuracy == pytest.approx(manifest["metrics"]["accuracy"], abs=1e-6)
    reference = pl.read_parquet(tmp_path / "reference.parquet")
    assert reference.columns == [*manifest["features"], "prediction"]
    assert b"/work" not in (tmp_path / "model.onnx").read_bytes()


async def test_killed_twice_it_ends_with_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        order(folder, patients(), parameters={"mlp.epochs": "40"})
    await run(undisturbed)
    for cut in (7, 150):  # Checkpoints of this run, after every batch: in mid-epoch, too.
        count = 0

        def kill(message: Message, cut: int = cut) -> None:
            nonlocal count
            count += isinstance(message, Checkpointed)
            if count == cut:
                # Kafka and Triton may be children of this process as well.
                for child in psutil.Process().children():
                    if "services.trainer.training" in child.cmdline():
                        os.kill(child.pid, signal.SIGKILL)

        messages = await run(disturbed, on_message=kill)
        assert messages[-1] == Exited(-signal.SIGKILL, "", messages[-1].resident_bytes_max)  # pyright: ignore[reportAttributeAccessIssue]
        assert not (disturbed / "manifest.json").exists()
    lines = [str(message) for message in await run(disturbed)]
    assert any("going on from epoch" in line for line in lines)
    for name in ("mlp.safetensors", "model.onnx", "manifest.json"):
        assert digest(disturbed / name) == digest(undisturbed / name), name


async def test_a_checkpoint_of_another_order_is_not_used(tmp_path: Path) -> None:
    few = {"mlp.epochs": "2"}
    order(tmp_path, patients(), parameters=few)
    await run(tmp_path)
    before = digest(tmp_path / "mlp.safetensors")
    order(tmp_path, patients(), parameters={**few, "data.seed": "8"})
    lines = [str(message) for message in await run(tmp_path)]
    assert any("belongs to another order" in line for line in lines)
    assert digest(tmp_path / "mlp.safetensors") != before


async def test_what_cannot_be_trained_is_refused_in_a_sentence(tmp_path: Path) -> None:
    order(tmp_path, patients().with_columns(diagnosis=pl.lit("benign")))
    refused = refusal(await run(tmp_path))
    assert "nothing to tell apart" in refused.what
    assert refused.which == "diagnosis"
    assert refused.next_step
    assert not (tmp_path / "manifest.json").exists()


async def test_damaged_rows_are_refused_and_the_trace_is_in_the_log(tmp_path: Path) -> None:
    order(tmp_path, patients())
    (tmp_path / "data.parquet").write_bytes(b"no parquet")
    messages = await run(tmp_path)
    assert "Traceback" not in refusal(messages).what
    assert any("Traceback" in str(message) for message in messages)


async def test_it_ends_at_its_memory_limit(tmp_path: Path) -> None:
    order(tmp_path, patients())
    messages = await run(tmp_path, ProcessLimits(120.0, 64 << 20, 1))
    exited = messages[-1]
    assert isinstance(exited, Exited)
    assert exited.over == "memory"
    assert exited.code == -signal.SIGKILL
    assert exited.resident_bytes_max > 64 << 20


async def test_it_ends_at_its_time_limit(tmp_path: Path) -> None:
    order(tmp_path, patients(), parameters={"mlp.epochs": "90000"})
    messages = await run(tmp_path, ProcessLimits(6.0, 4 << 30, 1))
    exited = messages[-1]
    assert isinstance(exited, Exited)
    assert exited.over == "time"


async def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """No orphan trains on when a worker is killed."""
    order(tmp_path, patients(), parameters={"mlp.epochs": "90000"})
    parent_source = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from services.trainer.outbound.process import ProcessTraining\n"
        "from services.trainer.outbound.workplace import FolderPlace\n"
        "from services.trainer.ports import ProcessLimits\n"
        "async def main():\n"
        "    place = FolderPlace(Path(sys.argv[1]))\n"
        "    async for _ in ProcessTraining().run(place, ProcessLimits(120.0, 1 << 33, 1), ''):\n"
        "        pass\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", parent_source, str(tmp_path)]
    )
    with parent:
        process = psutil.Process(parent.pid)
        child = await eventually(lambda: next(iter(process.children()), None), 20.0)
        assert child is not None
        await eventually((tmp_path / "mlp.progress.safetensors").exists, 60.0)
        parent.kill()
    await eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return ExportTraceServiceResponse()


async def test_its_span_continues_the_trace_it_was_given(tmp_path: Path) -> None:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    order(tmp_path, patients(), parameters={"mlp.epochs": "1"})
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    training = ProcessTraining(f"127.0.0.1:{port}")
    messages = [each async for each in training.run(FolderPlace(tmp_path), LIMITS, parent)]
    await server.stop(None)
    assert messages[-1] == Exited(0, "", messages[-1].resident_bytes_max)  # pyright: ignore[reportAttributeAccessIssue]
    (span,) = [each for each in collector.spans if each.name == "train"]
    assert f"{span.trace_id.hex()}-{span.parent_span_id.hex()}" in parent
