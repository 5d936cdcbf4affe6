"""Cancelled calls kill Triton 2.51: through the dispatcher they must not."""

import asyncio
import json
import random
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import uvloop
from tritonclient.grpc import InferenceServerClient

from libs.common.pb.inference.grpc_inference_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
)
from services.gateway.dispatcher import Dispatcher, Limits, Route, RoutingTable, Variant
from tools.servers import Triton

CALLS = 100_000
CALLERS = 64
CHANNELS = 4
IMPATIENT_SHARE = 0.4  # About half of them are answered before they lose their patience.
IMPATIENT_WITHIN_S = 0.01
SECONDS_MAX = 280.0
METHOD = "/inference.GRPCInferenceService/ModelInfer"
METADATA = (("x-basalt-tenant", "acme"),)

MODEL = b"""
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb.get_input_tensor_by_name(r, "x").as_numpy()) for r in requests]

    def answer(self, x):
        return pb.InferenceResponse([pb.Tensor("y", x + x)])
"""
CONFIG = {
    "backend": "python",
    "max_batch_size": 64,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
    "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    "dynamic_batching": {},
}


class Callers:
    """Callers in a loop each, who lose their patience at random moments."""

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self._methods = [channel.unary_unary(METHOD) for channel in channels]
        self._left = CALLS
        self._random = random.Random(20)  # noqa: S311  Chance, and the same each time.
        self.answered = 0
        self.cancelled = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                tasks.create_task(self._call_on_and_on(number))

    async def _call_on_and_on(self, number: int) -> None:
        model = "double" if number % 2 else "alone"
        message = ModelInferRequest(model_name=model)
        message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        x = np.array([number, number + 1], np.float32)
        message.raw_input_contents.append(x.tobytes())
        request = message.SerializeToString()
        expected = (x + x).tobytes()
        while self._left > 0:
            self._left -= 1
            call = self._methods[number % CHANNELS](request, metadata=METADATA, timeout=60.0)
            if self._random.random() < IMPATIENT_SHARE:
                delay_s = self._random.uniform(0.0, IMPATIENT_WITHIN_S)
                asyncio.get_running_loop().call_later(delay_s, call.cancel)
            try:
                answer = await call
            except asyncio.CancelledError:
                self.cancelled += 1
            else:
                assert ModelInferResponse.FromString(answer).raw_output_contents[0] == expected
                self.answered += 1


@pytest.mark.timeout(SECONDS_MAX + 60)
def test_triton_survives_calls_that_are_cancelled_at_random_moments(
    tmp_path: Path,
) -> None:
    with Triton(tmp_path / "triton", control_key="key") as triton:
        with InferenceServerClient(triton.grpc_address) as client:
            client.load_model(
                "acme.double",
                headers={Triton.control_header: "key"},
                config=json.dumps(CONFIG),
                files={"file:1/model.py": MODEL},
            )
        pid = triton.pid
        uvloop.run(run(tmp_path / "door.sock", triton.grpc_address))
        assert triton.alive
        assert triton.pid == pid
        with InferenceServerClient(triton.grpc_address) as client:
            assert client.is_model_ready("acme.double")


async def run(socket: Path, triton_address: str) -> None:
    dispatcher = Dispatcher(triton_address, limits=Limits(tenant_concurrency_max=10_000))
    variants = (Variant("acme.double", "1", "sha256:aa", 1),)
    dispatcher.use(
        RoutingTable.of(
            [
                Route("acme", "double", variants),
                Route("acme", "alone", variants, merge=False),
            ]
        )
    )
    await dispatcher.start(socket)
    options = [("grpc.use_local_subchannel_pool", 1)]  # A connection for each channel.
    channels = [grpc.aio.insecure_channel(f"unix:{socket}", options) for _ in range(CHANNELS)]
    callers = Callers(channels)
    began = time.monotonic()
    async with asyncio.timeout(SECONDS_MAX):
        await callers.run()
    for channel in channels:
        await channel.close()
    await dispatcher.close()

    assert callers.answered + callers.cancelled == CALLS
    assert callers.cancelled > CALLS / 20, "too few were quick enough"
    snapshot = dispatcher.snapshot()
    assert snapshot.calls_in_flight == snapshot.calls_waiting == snapshot.buffered_bytes == 0
    seen = sum(sum(series.errors.values()) for series in snapshot.series.values())
    print(
        f"{CALLS} calls in {time.monotonic() - began:.0f} s, {callers.cancelled} cancelled, "
        f"{seen} of them after they had reached the dispatcher"
    )
