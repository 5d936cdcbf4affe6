"""The reconciler with the real Triton."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
import tritonclient.grpc.aio as client
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from libs.common.errors import BasaltError, DependencyError, PreconditionError
from services.inference.core.artifacts import BATCH_SIZE_MAX
from services.inference.core.rollout import Rollout
from services.inference.core.serving import Serving
from services.inference.outbound.triton import CONTROL_HEADER, Triton
from services.inference.outbound.triton_config import (
    CHALLENGE,
    LOAD,
    MANIFEST_SHA256,
    SEAL,
    Backend,
    configuration,
)
from services.inference.ports import ForeignModelError, Loaded
from tests.support.candidates import FEATURES, Candidate, good_model
from tests.support.eventually import eventually
from tests.support.registry import Registry
from tests.support.servers import TRITON_CONTROL_KEY
from tools.servers import Triton as TritonServer

NAME = "acme--boxes--v1"
KEY = {CONTROL_HEADER: TRITON_CONTROL_KEY}
# What somebody would load who wants every answer to be theirs.
FOREIGN = b"""
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(len(pb.get_input_tensor_by_name(r, "features").as_numpy()))
                for r in requests]

    def answer(self, rows):
        return pb.InferenceResponse([
            pb.Tensor("label", np.full((rows, 1), 666, np.int64)),
            pb.Tensor("probabilities", np.ones((rows, 2), np.float32)),
        ])
"""


def adapter(
    address: str,
    key: str = TRITON_CONTROL_KEY,
    secret: bytes = b"of inference",
    backend: Backend = "python",
) -> Triton:
    return Triton(address, key, secret=secret, backend=backend, kind="CPU")


class Platform(Registry):
    """A registry whose models reach a real Triton."""

    def __init__(self, folder: Path, server: TritonServer) -> None:
        self.triton = adapter(server.grpc_address)
        super().__init__(folder, server=self.triton, unload_delay_s=1.0)
        # As in the service: what is to be deployed is loaded first.
        self.rollout = Rollout(self.journal, self.clock, self.reconciler)
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
    for name in await platform.triton.held():
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
    loaded = await platform.triton.examine(NAME)
    assert loaded.manifest_sha256 == (await platform.version(1)).manifest_sha256


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

    assert (await platform.triton.held()).keys() >= {"acme--boxes--v1", "acme--boxes--v2"}


async def test_a_model_that_triton_refuses_says_why(platform: Platform) -> None:
    version = await platform.signed(Candidate())
    other = replace(await platform.servable(version), model=b"else")

    with pytest.raises(PreconditionError, match=r"model\.onnx has the SHA-256 .* it is not served"):
        await platform.triton.load(other)

    assert NAME not in await platform.triton.held()


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
        for call in (absent.ping, absent.held):
            with pytest.raises(DependencyError, match="Triton cannot be reached") as error:
                await call()
            # Where it is looked for is nobody's business but the operator's.
            assert "127.0.0.1" not in str(error.value)
    finally:
        await absent.stop()


async def test_unloading_what_is_not_there_is_no_error(platform: Platform) -> None:
    await platform.triton.unload("acme--never--v1")
    with pytest.raises(BasaltError) as error:
        await platform.triton.examine("acme--never--v1")
    assert not isinstance(error.value, ForeignModelError)


@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
async def test_the_configuration_is_one_that_triton_knows(tmp_path: Path, backend: Any) -> None:
    registry = Registry(tmp_path)
    servable = await registry.servable(await registry.signed(Candidate()))
    await registry.close()
    marks = {"basalt_load": "1"}

    config = ParseDict(
        configuration(servable, backend, "GPU", marks), model_config_pb2.ModelConfig()
    )

    assert config.backend == backend
    assert config.max_batch_size == BATCH_SIZE_MAX
    assert [list(each.dims) for each in config.output] == [[1], [2]]
    assert config.output[0].HasField("reshape")
    assert json.loads(json.dumps(configuration(servable, backend, "CPU", marks)))


async def load_foreign(platform: Platform, name: str, parameters: dict[str, Any]) -> None:
    config = {
        "backend": "python",
        "max_batch_size": 8,
        "input": [{"name": "features", "data_type": "TYPE_FP32", "dims": [3]}],
        "output": [
            {"name": "label", "data_type": "TYPE_INT64", "dims": [1]},
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [2]},
        ],
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }
    async with client.InferenceServerClient(platform.address) as triton:
        files = {"file:1/model.py": FOREIGN}
        await triton.load_model(name, headers=KEY, config=json.dumps(config), files=files)


async def answers_rightly(platform: Platform) -> bool:
    try:
        return (await platform.answer(NAME, ROWS))["label"].tolist() == [[1], [0], [1]]
    except InferenceServerException:
        return False


@pytest.mark.parametrize("copied", [False, True])
async def test_a_foreign_model_under_a_served_name_is_gone_within_seconds(
    platform: Platform, copied: bool
) -> None:
    await platform.signed(Candidate())
    await platform.deploy(1)
    loaded = await platform.triton.examine(NAME)
    marks = {MANIFEST_SHA256: loaded.manifest_sha256, LOAD: loaded.load} if copied else {}

    await load_foreign(platform, NAME, marks)
    await load_foreign(platform, "of-nobody", marks)

    async def told() -> bool:
        return {found.name for found in platform.auditor.records} == {NAME, "of-nobody"}

    await eventually(told)
    await eventually(lambda: answers_rightly(platform))

    async def gone() -> bool:
        return (await platform.triton.held()).keys() == {NAME}

    await eventually(gone)
    assert "Find out who reaches Triton" in platform.reconciler.problem


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_model_whose_process_died_or_hangs_is_back_by_itself(
    platform: Platform, triton: TritonServer, number: signal.Signals
) -> None:
    """Triton alone would answer INTERNAL for ever, and call the model ready."""
    await platform.signed(Candidate())
    await platform.deploy(1)
    revision = await platform.rollout.current("acme", "boxes")
    for stub in psutil.Process(triton.pid).children():
        stub.send_signal(number)

    async def said() -> bool:
        return "has ended or hangs" in Serving(platform.reconciler).standing(revision).problem

    await eventually(said)
    await eventually(lambda: answers_rightly(platform))

    async def settled() -> bool:
        return Serving(platform.reconciler).standing(revision).problem == ""

    await eventually(settled)
    assert platform.auditor.records == []


@pytest.mark.parametrize("secret", [b"of inference", b"of somebody else"])
async def test_a_load_is_known_again_by_who_has_the_secret_alone(
    platform: Platform, secret: bytes
) -> None:
    await platform.signed(Candidate())
    await platform.deploy(1)
    other = adapter(platform.address, secret=secret)
    try:
        if secret == b"of inference":
            assert await other.examine(NAME) == await platform.triton.examine(NAME)
        else:
            with pytest.raises(ForeignModelError, match="another secret"):
                await other.examine(NAME)
    finally:
        await other.stop()


@pytest.mark.parametrize("sealed", [True, False])
async def test_where_the_model_can_prove_nothing_its_configuration_is_sealed(
    platform: Platform, sealed: bool
) -> None:
    """As with ONNX Runtime, which this Triton lacks: so Python stands in for what is served."""
    onnx = adapter(platform.address, backend="onnxruntime")
    loaded = Loaded("d" * 64, "1")
    seal = onnx._seal("of-ours", loaded) if sealed else "0" * 64
    await platform.reconciler.stop()
    await load_foreign(platform, "of-ours", {MANIFEST_SHA256: "d" * 64, LOAD: "1", SEAL: seal})
    try:
        if sealed:
            assert await onnx.examine("of-ours") == loaded
            await platform.triton.unload("of-ours")
        else:
            with pytest.raises(ForeignModelError, match="seal"):
                await onnx.examine("of-ours")
    finally:
        await onnx.stop()


async def test_a_caller_cannot_tell_a_seal_from_the_answers(platform: Platform) -> None:
    """The seal's file is gone, and a challenge of the caller's own shows a digest alone."""
    await platform.signed(Candidate())
    await platform.deploy(1)
    given = client.InferInput("features", [1, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3), np.float32))
    async with client.InferenceServerClient(platform.address) as triton:
        with pytest.raises(InferenceServerException, match=r"basalt-proof:[0-9a-f]{64}$"):
            await triton.infer(NAME, [given], parameters={CHALLENGE: "mine"})
        config = await triton.get_model_config(NAME, headers=KEY)
    assert SEAL not in cast("Any", config).config.parameters


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
            return NAME not in await platform.triton.held()

        await eventually(old_one_gone, within_s=20)
        await platform.rollout.roll_back("acme", "boxes", to_revision=0, reason="", by="ops")
        await eventually_routed(platform, {"acme--boxes--v2": 100})
    finally:
        stop.set()
        # A failed call fails here.
        await asyncio.gather(*callers)

    assert set(answered) == {f"acme--boxes--v{number}" for number in (1, 2, 3)}
