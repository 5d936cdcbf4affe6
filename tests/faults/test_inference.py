"""Triton killed, artifacts damaged, inference killed: what was served is served again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as client
from tritonclient.utils import InferenceServerException

from libs.common.pb.basalt.v1 import inference_pb2 as pb
from tests.support.candidates import Candidate, good_model
from tests.support.eventually import eventually
from tests.support.inference import Inference, beside_inference
from tests.support.platform import Security, running_security
from tests.support.registry import flip_one_bit
from tests.support.servers import TRITON_CONTROL_KEY
from tools.servers import Kafka, Triton

REPOSITORY = Path(__file__).parents[2]


class Process:
    """`python -m services.inference`, as it runs everywhere."""

    def __init__(self, security: Security, triton: str) -> None:
        given = security.settings("inference")
        settings = {**given, "triton": triton, "triton_control_key": TRITON_CONTROL_KEY}
        self.environment = {
            f"BASALT_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in settings.items()
        }
        self.log = security.folder / "inference.log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.inference",
                cwd=REPOSITORY,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await self.process.wait()


@asynccontextmanager
async def in_a_process(security: Security, triton: str) -> AsyncIterator[Process]:
    process = Process(security, triton)
    await process.start()
    try:
        yield process
    finally:
        if process.process is not None and process.process.returncode is None:
            await process.end(signal.SIGTERM)


@pytest_asyncio.fixture
async def own_triton(tmp_path: Path) -> AsyncIterator[Triton]:
    server = Triton(tmp_path / "triton", control_key=TRITON_CONTROL_KEY)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


@pytest_asyncio.fixture
async def security(tmp_path: Path, kafka: Kafka) -> AsyncIterator[Security]:
    async with running_security(tmp_path, kafka.bootstrap) as started:
        yield started


@pytest_asyncio.fixture
async def process(security: Security, own_triton: Triton) -> AsyncIterator[Process]:
    async with in_a_process(security, own_triton.grpc_address) as started:
        yield started


@pytest_asyncio.fixture
async def inference(security: Security, process: Process) -> AsyncIterator[Inference]:
    async with beside_inference(security) as beside:
        await eventually(lambda: serving(beside), within_s=30)
        yield beside


async def serving(inference: Inference) -> bool:
    try:
        await inference.models.ListModels(pb.ListModelsRequest(), **await inference.as_user("ada"))
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return False
        raise
    return True


async def answers(triton: Triton, name: str) -> list[int] | None:
    """Triton's labels for two rows; None while it does not answer."""
    given = client.InferInput("features", [2, 3], "FP32")
    given.set_data_from_numpy(np.array([[3, 0, 0], [-3, 0, 0]], np.float32))
    async with client.InferenceServerClient(triton.grpc_address) as asking:
        try:
            label: Any = (await asking.infer(name, [given])).as_numpy("label")
        except InferenceServerException:
            return None
    return label.reshape(-1).tolist()


async def deployed(inference: Inference) -> pb.Deployment:
    answer = await inference.deployments.GetDeployment(
        pb.GetDeploymentRequest(model="boxes"), **await inference.as_user("ops")
    )
    return answer.deployment


async def two_versions_served(inference: Inference) -> None:
    await inference.signed(Candidate(), 1)
    await inference.signed(Candidate(job="job-2", onnx=good_model(2.0)), 2)
    await inference.deploy(1)
    canary = await inference.deploy(2, weight=20)
    assert canary.problem == ""


async def test_a_killed_triton_has_its_models_back_by_itself(
    inference: Inference, own_triton: Triton
) -> None:
    await two_versions_served(inference)
    before = await inference.routes()

    for _ in range(2):
        await asyncio.to_thread(own_triton.kill)
        assert await answers(own_triton, "acme--boxes--v1") is None
        await asyncio.to_thread(own_triton.start)

        for name in ("acme--boxes--v1", "acme--boxes--v2"):

            async def right(name: str = name) -> bool:
                return await answers(own_triton, name) == [1, 0]

            await eventually(right, within_s=30)

    # The gateway was told of nothing, since nothing about the routes has changed.
    assert await inference.routes() == before

    async def without_problem() -> bool:
        return (await deployed(inference)).problem == ""

    await eventually(without_problem)


async def test_while_triton_is_away_nothing_is_deployed_and_the_answer_says_why(
    inference: Inference, own_triton: Triton
) -> None:
    await inference.signed(Candidate(), 1)
    await asyncio.to_thread(own_triton.kill)

    with pytest.raises(grpc.aio.AioRpcError, match="Triton cannot be reached") as refusal:
        await inference.deploy(1)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError, match="never deployed"):
        await deployed(inference)
    await asyncio.to_thread(own_triton.start)

    async def served() -> bool:
        try:
            return (await inference.deploy(1)).problem == ""
        except grpc.aio.AioRpcError:
            return False

    await eventually(served, within_s=30)
    assert await answers(own_triton, "acme--boxes--v1") == [1, 0]


@pytest.mark.parametrize("file", ["model.onnx", "reference.parquet", "manifest.json"])
async def test_one_flipped_bit_is_refused_at_load(
    inference: Inference, own_triton: Triton, security: Security, file: str
) -> None:
    await inference.signed(Candidate(), 1)
    version = await inference.signed(Candidate(job="job-2", onnx=good_model(2.0)), 2)
    await inference.deploy(1)
    digests = {each.name: each.sha256 for each in version.files}
    digests["manifest.json"] = version.manifest_sha256
    flip_one_bit(security.folder / "objects/inference/acme/models" / digests[file])

    promise = f"{file} of boxes version 2 is not what was promised"
    with pytest.raises(grpc.aio.AioRpcError, match=promise) as refusal:
        await inference.deploy(2)

    assert refusal.value.code() is grpc.StatusCode.DATA_LOSS
    assert (await deployed(inference)).revision == 1
    assert await answers(own_triton, "acme--boxes--v2") is None
    # What was in service before serves on.
    [route] = (await inference.routes()).routes
    assert [each.version for each in route.variants] == [1]
    assert await answers(own_triton, "acme--boxes--v1") == [1, 0]


async def test_a_flipped_bit_that_comes_after_the_load_is_found_when_triton_restarts(
    inference: Inference, own_triton: Triton, security: Security
) -> None:
    version = await inference.signed(Candidate(), 1)
    await inference.deploy(1)
    digest = next(each.sha256 for each in version.files if each.name == "model.onnx")
    flip_one_bit(security.folder / "objects/inference/acme/models" / digest)

    await asyncio.to_thread(own_triton.kill)
    await asyncio.to_thread(own_triton.start)

    async def said() -> bool:
        problem = (await deployed(inference)).problem
        return "model.onnx of boxes version 1 is not what was promised" in problem

    await eventually(said, within_s=30)
    assert await answers(own_triton, "acme--boxes--v1") is None


async def test_a_killed_inference_takes_up_where_it_was(
    inference: Inference, own_triton: Triton, process: Process
) -> None:
    await inference.signed(Candidate(), 1)
    await inference.deploy(1)
    before = await inference.routes()

    await process.end(signal.SIGKILL)
    # Triton serves on without it, and what was told meanwhile waits in Kafka.
    assert await answers(own_triton, "acme--boxes--v1") == [1, 0]
    await inference.tell(Candidate(job="job-2"))
    await process.start()

    assert (await inference_again(inference)).stage == pb.MODEL_STAGE_GATED
    assert [route.variants for route in (await inference.routes()).routes] == [
        route.variants for route in before.routes
    ]


async def test_kills_while_candidates_come_in_leave_each_with_one_version(
    inference: Inference, process: Process
) -> None:
    jobs = [f"job-{number}" for number in range(6)]
    for number, job in enumerate(jobs):
        await inference.tell(Candidate(job=job))
        if number % 2:
            await process.end(signal.SIGKILL)
            await process.start()
    await eventually(lambda: serving(inference), within_s=30)

    async def versions() -> list[pb.ModelVersion]:
        try:
            answer = await inference.models.ListModelVersions(
                pb.ListModelVersionsRequest(model="boxes"), **await inference.as_user("ada")
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return []
            raise
        return list(answer.versions)

    async def all_judged() -> bool:
        found = await versions()
        return len(found) == len(jobs) and all(each.stage == pb.MODEL_STAGE_GATED for each in found)

    await eventually(all_judged, within_s=90)
    found = await versions()
    assert [each.version for each in found] == [6, 5, 4, 3, 2, 1]
    assert {each.lineage.job for each in found} == set(jobs)


async def inference_again(inference: Inference) -> pb.ModelVersion:
    await eventually(lambda: serving(inference), within_s=30)
    return await inference.judged(2)
