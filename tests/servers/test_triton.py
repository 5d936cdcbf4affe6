import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tests.support.certificates import write_certificates
from tests.support.servers import TRITON_CONTROL_KEY
from tools.servers import ServerError, Triton
from tools.servers.triton import SHARED_MEMORY, STALE_S_MIN, TEMPORARY

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


class AmongOthers(Triton):
    """As where the kernel gives no namespaces: its /tmp and /dev/shm are everybody's."""

    def _privacy(self) -> None:
        return None


def test_what_a_server_holds_of_its_models_is_seen_by_itself_alone(tmp_path: Path) -> None:
    before = set(TEMPORARY.glob("folder*"))
    with Triton(tmp_path) as server:
        with InferenceServerClient(server.grpc_address) as client:
            load(client, "double")
            assert infer(client, "double") == [[2, 4]]
        assert server.has_own_mounts
        assert not set(SHARED_MEMORY.glob(f"{server._region_prefix}*"))
        assert set(TEMPORARY.glob("folder*")) <= before
        assert list((tmp_path / "tmp").glob("folder*"))
        (tmp_path / "tmp/file").touch()  # As libraries of its leave some.
        server.kill()

    assert not list((tmp_path / "tmp").iterdir())


def test_a_killed_server_comes_back_and_leaves_nothing_behind(tmp_path: Path) -> None:
    server = AmongOthers(tmp_path, control_key=TRITON_CONTROL_KEY).start()
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


def test_copies_of_models_that_nobody_uses_any_more_are_removed(tmp_path: Path) -> None:
    """What a Triton left whose supervisor was killed as well, before it could clean."""
    stale, used, young = (Path(tempfile.mkdtemp(prefix="folder", dir=TEMPORARY)) for _ in range(3))
    renamed = [folder.rename(folder.with_name(folder.name[:12])) for folder in (stale, used, young)]
    stale, used, young = renamed
    for folder in renamed:
        (folder / "1").mkdir()
        (folder / "1/model.onnx").touch()
    for folder in (stale, used):
        before = folder.stat().st_mtime - STALE_S_MIN - 1
        os.utime(folder, (before, before))
    waiting = [sys.executable, "-c", "import sys; sys.stdin.read()", used / "1/model.py"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as stub:
        Triton(tmp_path)._clean()
        assert [each.exists() for each in renamed] == [False, True, True]
        stub.communicate()
    for folder in (used, young):
        (folder / "1/model.onnx").unlink()
        (folder / "1").rmdir()
        folder.rmdir()


CONNECT = """
import os, socket, sys
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for act in (
    lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]),
    lambda: os.listdir(os.path.dirname(sys.argv[1])),
):
    try:
        act()
    except PermissionError:
        print("refused")
    else:
        print("let in")
"""


def test_another_user_of_the_machine_reaches_nothing() -> None:
    """The folder alone keeps them out: gRPC makes a socket to which everybody may connect."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "triton").mkdir()
        with Triton(Path(folder) / "triton") as server:
            assert server.socket.parent.stat().st_mode & 0o777 == 0o700
            if os.geteuid() == 0:
                tried = subprocess.run(
                    [sys.executable, "-c", CONNECT, server.socket],
                    stdout=subprocess.PIPE,
                    check=True,
                )
                assert tried.stdout.split() == [b"refused", b"refused"]
            with socket.socket(socket.AF_UNIX) as own:
                own.connect(str(server.socket))


def test_a_socket_with_too_long_a_path_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="is over 107 bytes") as refusal:
        Triton(tmp_path / ("long" * 25)).start()

    assert "shorter path" in refusal.value.next_step


def test_it_can_listen_on_loopback_for_those_who_have_its_key(tmp_path: Path) -> None:
    with (
        Triton(tmp_path, tcp=True, control_key=TRITON_CONTROL_KEY) as server,
        InferenceServerClient(server.grpc_address) as client,
    ):
        assert server.grpc_address == f"127.0.0.1:{server.ports['grpc']}"
        load(client, "double")
        assert infer(client, "double") == [[2, 4]]


def test_with_certificates_it_hears_nobody_without_one(tmp_path: Path) -> None:
    tls = write_certificates(tmp_path / "tls", ["triton", "inference"])
    strangers = write_certificates(tmp_path / "strangers", ["inference"])

    def client(folder: Path, name: str = "") -> InferenceServerClient:
        own = {"private_key": f"{folder / name}.key", "certificate_chain": f"{folder / name}.pem"}
        return InferenceServerClient(
            server.grpc_address,
            ssl=True,
            root_certificates=str(tls / "ca.pem"),
            **(own if name else {}),
        )

    with Triton(tmp_path / "triton", tcp=True, tls=tls) as server:
        with client(tls, "inference") as known:
            load(known, "double")
            assert infer(known, "double") == [[2, 4]]
        with InferenceServerClient(server.grpc_address) as plain:
            for other in (plain, client(tls), client(strangers, "inference")):
                with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
                    other.is_server_live(client_timeout=3)


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
