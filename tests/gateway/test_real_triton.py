"""The dispatcher before the real Triton, called by the unchanged client of Triton."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from libs.common.errors import PreconditionError
from libs.common.tls import ServerTls
from services.gateway.dispatcher import Dispatcher, Route, RoutingTable, Variant
from services.gateway.outbound.triton import TritonServer
from services.inference.outbound.triton import Triton as Loader
from tests.gateway.conftest import DIGEST, TENANT
from tests.support.certificates import write_certificates
from tests.support.servers import TRITON_CONTROL_KEY
from tools.servers import Triton

MODEL = b"""
import numpy
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(r) for r in requests]

    def answer(self, request):
        x = pb.get_input_tensor_by_name(request, "x").as_numpy()
        if (x < 0).any():
            return pb.InferenceResponse(error=pb.TritonError("a value is negative"))
        texts = numpy.array([[f"{row.sum():g}".encode()] for row in x], numpy.object_)
        return pb.InferenceResponse([pb.Tensor("y", x + x), pb.Tensor("t", texts)])
"""
CONFIG = {
    "backend": "python",
    "max_batch_size": 64,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [
        {"name": "y", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "t", "data_type": "TYPE_STRING", "dims": [1]},
    ],
    "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    "dynamic_batching": {},
}
CALLS = 300
ERROR_CHARACTERS_MAX = 3_000


@pytest.fixture
async def socket(triton: Triton, tmp_path: Path) -> AsyncIterator[Path]:
    await asyncio.to_thread(load, triton)
    dispatcher = Dispatcher(triton.grpc_address)
    variants = (Variant("acme.double", "3", DIGEST, 1),)
    dispatcher.use(
        RoutingTable.of(
            [
                Route("acme", "double", variants),
                Route("acme", "alone", variants, merge=False),
            ]
        )
    )
    await dispatcher.start(tmp_path / "door.sock")
    yield tmp_path / "door.sock"
    await dispatcher.close(grace_s=5.0)


def load(triton: Triton) -> None:
    with InferenceServerClient(triton.grpc_address) as client:
        client.load_model(
            "acme.double",
            headers={Triton.control_header: TRITON_CONTROL_KEY},
            config=json.dumps(CONFIG),
            files={"file:1/model.py": MODEL},
        )


def infer(client: InferenceServerClient, x: np.ndarray, model: str) -> InferResult:
    tensor = InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return client.infer(model, [tensor], headers=dict([TENANT]), request_id="r", client_timeout=30)


@pytest.mark.parametrize("model", ["double", "alone"])
async def test_every_caller_gets_their_own_answer(socket: Path, model: str) -> None:
    def one(client: InferenceServerClient, number: int) -> None:
        x = np.full((1 + number % 3, 2 + number % 2), number, np.float32)
        answer = infer(client, x, model)
        assert np.array_equal(answer.as_numpy("y"), x + x)
        texts = [[f"{row.sum():g}".encode()] for row in x]
        assert answer.as_numpy("t").tolist() == texts
        assert answer.get_response().model_name == model
        assert answer.get_response().model_version == "3"
        assert answer.get_response().id == "r"

    with tritonclient.grpc.InferenceServerClient(f"unix:{socket}") as client:
        await asyncio.gather(*(asyncio.to_thread(one, client, number) for number in range(CALLS)))


async def test_an_error_is_its_callers_own(socket: Path) -> None:
    def one(client: InferenceServerClient, number: int) -> None:
        if number % 5:
            assert infer(client, np.array([[1.0]], np.float32), "double").as_numpy("y") == 2.0
            return
        with pytest.raises(InferenceServerException, match="a value is negative"):
            infer(client, np.array([[-1.0]], np.float32), "double")

    with tritonclient.grpc.InferenceServerClient(f"unix:{socket}") as client:
        await asyncio.gather(*(asyncio.to_thread(one, client, number) for number in range(100)))


async def test_what_a_caller_named_comes_back_bounded_and_breaks_no_other_call(
    socket: Path,
) -> None:
    """Triton's own error repeats a tensor's name; all tenants share the connection to it."""

    def misnamed(client: InferenceServerClient, name: str) -> None:
        tensor = InferInput(name, [1, 1], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
        with pytest.raises(InferenceServerException) as refusal:
            client.infer("double", [tensor], headers=dict([TENANT]), client_timeout=30)
        assert "broke" not in str(refusal.value)
        assert len(str(refusal.value)) < ERROR_CHARACTERS_MAX

    def others(client: InferenceServerClient) -> None:
        for _ in range(CALLS):
            assert infer(client, np.array([[1.0]], np.float32), "alone").as_numpy("y") == 2.0

    with tritonclient.grpc.InferenceServerClient(f"unix:{socket}") as client:
        working = asyncio.create_task(asyncio.to_thread(others, client))
        for size in (1_000, 10_000, 40_000, 70_000, 1_000_000):
            for character in "aé\n":
                await asyncio.to_thread(misnamed, client, character * size)
        await working


async def test_large_tensors_pass(socket: Path) -> None:
    x = np.random.default_rng(1).normal(size=(2, 3 * 224 * 224)).astype(np.float32) ** 2
    with tritonclient.grpc.InferenceServerClient(f"unix:{socket}") as client:
        answer = await asyncio.to_thread(infer, client, x, "double")
    assert np.array_equal(answer.as_numpy("y"), x + x)


async def test_by_mutual_tls_with_a_certificate_of_the_door(tmp_path: Path) -> None:
    """As in containers: the dispatcher's calls, the slow edge's, and what inference asks."""
    folder = write_certificates(tmp_path / "tls", ["triton", "gateway"])
    tls = ServerTls(folder, "gateway")
    with Triton(tmp_path / "triton", tcp=True, tls=folder) as server:
        address = f"tls:{server.grpc_address}"
        with InferenceServerClient(
            server.grpc_address,
            ssl=True,
            root_certificates=str(folder / "ca.pem"),
            private_key=str(folder / "gateway.key"),
            certificate_chain=str(folder / "gateway.pem"),
        ) as client:
            await asyncio.to_thread(
                client.load_model,
                "acme.double",
                config=json.dumps(CONFIG),
                files={"file:1/model.py": MODEL},
            )
        dispatcher = Dispatcher(server.grpc_address, tls=tls.client_context())
        variants = (Variant("acme.double", "3", DIGEST, 1),)
        dispatcher.use(RoutingTable.of([Route("acme", "double", variants)]))
        await dispatcher.start(tmp_path / "door.sock")
        try:
            with tritonclient.grpc.InferenceServerClient(
                f"unix:{tmp_path / 'door.sock'}"
            ) as client:
                x = np.array([[1.0, 2.0]], np.float32)
                answer = await asyncio.to_thread(infer, client, x, "double")
            assert np.array_equal(answer.as_numpy("y"), x + x)
        finally:
            await dispatcher.close(grace_s=5.0)

        edge = TritonServer(address, tls)
        loader = Loader(address, "", secret=b"s", backend="python", kind="CPU", tls=tls)
        try:
            assert await edge.model_ready("acme.double")
            assert "acme.double" in await loader.held()
        finally:
            await edge.stop()
            await loader.stop()


def test_without_a_certificate_mutual_tls_is_refused_at_the_start() -> None:
    with pytest.raises(PreconditionError, match="there is no certificate"):
        TritonServer("tls:triton:8001")
