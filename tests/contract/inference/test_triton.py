"""The reconciler with the real Triton."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as client
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from libs.common.errors import DependencyError, PreconditionError
from services.inference.core.artifacts import BATCH_SIZE_MAX
from services.inference.core.serving import Serving
from services.inference.outbound.triton import CONTROL_HEADER, Triton
from services.inference.outbound.triton_config import configuration
from tests.support.candidates import FEATURES, Candidate, good_model
from tests.support.eventually import eventually
from tests.support.registry import Registry
from tests.support.servers import TRITON_CONTROL_KEY
from tools.servers import Triton as TritonServer


def adapter(address: str, key: str = TRITON_CONTROL_KEY) -> Triton:
    return Triton(address, key, backend="python", kind="CPU")


class Platform(Registry):
    """A registry whose models reach a real Triton."""

    def __init__(self, folder: Path, server: TritonServer) -> None:
        self.triton = adapter(server.grpc_address)
        super().__init__(folder, server=self.triton, unload_delay_s=1.0)
        self.address = server.grpc_address

    async def deploy(self, number: int, weight: int = 100, within_s: float = 20.0) -> str:
        """The deployment's problem once it is settled."""
        revision, _ = await self.rollout.deploy(
            "acme", "boxes", number, weight=weight, expected_revision=0, reason="", by="ops"
        )
        return (await Serving(self.reconciler).settled(revision, within_s)).problem

    async def answer(self, name: str, rows: np.ndarray[Any, Any]) -> dict[str, Any]:
        given = client.InferInput("features", list(rows.shape), "FP32")
        given.set_data_from_numpy(rows.astype(np.float32))
        async with client.InferenceServerClient(self.address) as triton:
            result = await triton.infer(name, [given])
        return {each: result.as_numpy(each) for each in ("label", "probabilities")}


@pytest.fixture
async def platform(tmp_path: Path, triton: TritonServer) -> AsyncIterator[Platform]:
    platform = Platform(tmp_path, triton)
    await platform.reconciler.start()
    yield platform
    await platform.close()
    for name in await platform.triton.ready():
        await platform.triton.unload(name)
    await platform.triton.stop()


ROWS = np.array([[1, 1, 1], [-1, -1, -1], [2, -1, 0.5]])


async def test_a_signed_version_answers(platform: Platform) -> None:
    await platform.signed(Candidate())

    assert await platform.deploy(1) == ""

    answer = await platform.answer("acme--boxes--v1", ROWS)
    assert answer["label"].tolist() == [[1], [0], [1]]
    assert answer["probabilities"].shape == (3, 2)
    np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, rtol=1e-6)
    digest = await platform.triton.loaded_digest("acme--boxes--v1")
    assert digest == (await platform.version(1)).manifest_sha256


async def test_many_callers_get_their_own_rows(platform: Platform) -> None:
    """Triton runs what waits together; each answer still belongs to its caller."""
    await platform.signed(Candidate())
    await platform.deploy(1)
    rows = np.random.default_rng(3).normal(size=(200, len(FEATURES))).astype(np.float32)
    wanted = (rows.sum(axis=1) > 0).astype(np.int64)

    async with client.InferenceServerClient(platform.address) as triton:

        async def ask(start: int, end: int) -> list[int]:
            given = client.InferInput("features", [end - start, len(FEATURES)], "FP32")
            given.set_data_from_numpy(rows[start:end])
            result = await triton.infer("acme--boxes--v1", [given])
            label = result.as_numpy("label")
            assert label is not None
            return label.reshape(-1).tolist()

        bounds = [(start, start + 1 + start % 3) for start in range(190)]
        answers = await asyncio.gather(*(ask(*each) for each in bounds))

    for (start, end), answer in zip(bounds, answers, strict=True):
        assert answer == wanted[start:end].tolist()


@pytest.mark.parametrize("shape", [(2, 4), (BATCH_SIZE_MAX + 1, 3), (3,)])
async def test_a_malformed_tensor_is_refused_and_harms_nothing(
    platform: Platform, shape: tuple[int, ...]
) -> None:
    await platform.signed(Candidate())
    await platform.deploy(1)

    with pytest.raises(InferenceServerException) as refusal:
        await platform.answer("acme--boxes--v1", np.zeros(shape))

    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert (await platform.answer("acme--boxes--v1", ROWS))["label"].tolist() == [[1], [0], [1]]


async def test_a_canary_then_a_promotion_then_a_rollback(platform: Platform) -> None:
    await platform.signed(Candidate())
    await platform.signed(Candidate(job="job-2", onnx=good_model(5.0)))
    assert await platform.deploy(1) == ""
    assert await platform.deploy(2, weight=20) == ""
    assert await routes(platform) == {"acme--boxes--v1": 80, "acme--boxes--v2": 20}
    await platform.rollout.promote("acme", "boxes", reason="", by="ops")
    await eventually_routed(platform, {"acme--boxes--v2": 100})
    await platform.rollout.roll_back("acme", "boxes", to_revision=0, reason="", by="ops")
    await eventually_routed(platform, {"acme--boxes--v1": 100})

    assert await platform.triton.ready() >= {"acme--boxes--v1", "acme--boxes--v2"}


async def test_a_model_that_triton_refuses_says_why(platform: Platform) -> None:
    version = await platform.signed(Candidate())
    servable = await platform.artifacts.servable(version)
    other = type(servable)(
        **{each: getattr(servable, each) for each in servable.__slots__} | {"model": b"else"}
    )

    with pytest.raises(PreconditionError, match=r"model\.onnx has the SHA-256 .* it is not served"):
        await platform.triton.load(other)

    assert "acme--boxes--v1" not in await platform.triton.ready()


async def test_the_wrong_control_key_is_told_from_an_absent_triton(triton: TritonServer) -> None:
    wrong = adapter(triton.grpc_address, "another-key")
    try:
        with pytest.raises(DependencyError, match="does not take our control key"):
            await wrong.unload("acme--boxes--v1")
    finally:
        await wrong.stop()


async def test_an_absent_triton_is_named() -> None:
    absent = adapter("127.0.0.1:1")
    try:
        for call in (absent.ping, absent.ready):
            with pytest.raises(
                DependencyError, match=r"Triton at 127\.0\.0\.1:1 cannot be reached"
            ):
                await call()
    finally:
        await absent.stop()


async def test_unloading_what_is_not_there_is_no_error(platform: Platform) -> None:
    await platform.triton.unload("acme--never--v1")
    assert await platform.triton.loaded_digest("acme--never--v1") == ""


@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
async def test_the_configuration_is_one_that_triton_knows(tmp_path: Path, backend: Any) -> None:
    registry = Registry(tmp_path)
    servable = await registry.artifacts.servable(await registry.signed(Candidate()))
    await registry.close()

    config = ParseDict(configuration(servable, backend, "GPU"), model_config_pb2.ModelConfig())

    assert config.backend == backend
    assert config.max_batch_size == BATCH_SIZE_MAX
    assert [list(each.dims) for each in config.output] == [[1], [2]]
    assert config.output[0].HasField("reshape")
    assert json.loads(json.dumps(configuration(servable, backend, "CPU")))


async def routes(platform: Platform) -> dict[str, int]:
    async for table in platform.reconciler.tables():
        return {
            each.internal_name: each.weight for route in table.routes for each in route.variants
        }
    return {}


async def eventually_routed(platform: Platform, wanted: dict[str, int]) -> None:
    async def as_wanted() -> bool:
        return await routes(platform) == wanted

    await eventually(as_wanted)


def test_both_sides_know_the_control_key_by_one_name() -> None:
    assert TritonServer.control_header == CONTROL_HEADER


async def test_no_request_fails_while_versions_come_and_go(platform: Platform) -> None:
    """A caller that follows the routes, as the gateway does, is answered all along."""
    for number in (1, 2, 3):
        await platform.signed(Candidate(job=f"job-{number}", onnx=good_model(float(number))))
    await platform.deploy(1)
    answered: dict[str, int] = {}
    stop = asyncio.Event()

    async def call() -> None:
        given = client.InferInput("features", [1, len(FEATURES)], "FP32")
        given.set_data_from_numpy(np.ones((1, len(FEATURES)), np.float32))
        async with client.InferenceServerClient(platform.address) as triton:
            while not stop.is_set():
                for name in await routes(platform):
                    await triton.infer(name, [given])
                    answered[name] = answered.get(name, 0) + 1

    callers = [asyncio.create_task(call()) for _ in range(4)]
    try:
        assert await platform.deploy(2, weight=50) == ""
        await platform.rollout.promote("acme", "boxes", reason="", by="ops")
        await eventually_routed(platform, {"acme--boxes--v2": 100})
        assert await platform.deploy(3) == ""

        async def old_one_gone() -> bool:
            return "acme--boxes--v1" not in await platform.triton.ready()

        await eventually(old_one_gone, within_s=20)
        await platform.rollout.roll_back("acme", "boxes", to_revision=0, reason="", by="ops")
        await eventually_routed(platform, {"acme--boxes--v2": 100})
    finally:
        stop.set()
        # A failed call fails here.
        await asyncio.gather(*callers)

    assert set(answered) == {f"acme--boxes--v{number}" for number in (1, 2, 3)}
