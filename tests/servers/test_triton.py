import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tests.support.servers import TRITON_CONTROL_KEY
from tools.servers import Triton
from tools.servers.triton import SHARED_MEMORY

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
    "max_batch_size": 8,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
    "instance_group": [{"kind": "KIND_CPU", "count": 1}],
}
KEY = {Triton.control_header: TRITON_CONTROL_KEY}


@pytest.fixture
def client(triton: Triton) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(triton.grpc_address) as client:
        yield client


def load(client: InferenceServerClient, model: str, source: bytes = MODEL) -> None:
    files = {"file:1/model.py": source}
    client.load_model(model, headers=KEY, config=json.dumps(CONFIG), files=files)


def infer(client: InferenceServerClient, model: str) -> list[list[float]]:
    x = InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.array([[1, 2]], np.float32))
    return client.infer(model, [x]).as_numpy("y").tolist()


def test_a_model_is_loaded_from_the_call_alone(client: InferenceServerClient) -> None:
    load(client, "double")

    assert infer(client, "double") == [[2, 4]]

    client.unload_model("double", headers=KEY)


def test_without_the_control_key_nothing_is_loaded(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="restricted"):
        client.load_model("double", config=json.dumps(CONFIG))


def test_a_model_that_fails_leaves_the_server_ready(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="on purpose"):
        load(client, "broken", b"raise ValueError('on purpose')")

    assert client.is_server_ready()


def test_a_killed_server_comes_back_and_leaves_nothing_behind(tmp_path: Path) -> None:
    server = Triton(tmp_path, control_key=TRITON_CONTROL_KEY).start()
    try:
        with InferenceServerClient(server.grpc_address) as client:
            load(client, "double")
        regions = set(SHARED_MEMORY.glob(f"{server._region_prefix}*"))
        assert regions
        folders = server._folders_of_models()
        assert len(folders) == 1
        server.kill()
        assert not any(left.exists() for left in regions | folders)
        server.start()

        with InferenceServerClient(server.grpc_address) as client:
            load(client, "double")
            assert infer(client, "double") == [[2, 4]]
    finally:
        server.stop()


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = Triton(tmp_path)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        os.sched_yield()
        with InferenceServerClient(server.grpc_address) as client:
            assert client.is_server_live()
        assert server.alive
    finally:
        server.stop()
