import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tools.servers.errors import ServerError
from tools.servers.ports import free_ports, is_free, remembered_ports, settled_ports


def test_ports_are_different_and_free() -> None:
    ports = free_ports(20)

    assert len(set(ports)) == 20
    assert all(map(is_free, ports))


def test_a_port_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_a_port_that_was_given_is_not_given_to_another_process() -> None:
    (port,) = free_ports(1)
    choose = f"""
from tools.servers import ports
ports.PORT_MIN, ports.PORT_MAX = {port}, {port + 1}
print(ports.free_ports(1))
"""
    command = [sys.executable, "-c", choose]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert is_free(port)
    assert asked.returncode == 1
    assert "fewer than 1 free ports" in asked.stderr


def test_a_directory_keeps_its_ports(tmp_path: Path) -> None:
    first = remembered_ports(tmp_path, {"grpc": None, "http": None})

    assert remembered_ports(tmp_path, {"grpc": None, "http": None}) == first


def test_a_wanted_port_wins_over_a_remembered_one(tmp_path: Path) -> None:
    remembered_ports(tmp_path, {"grpc": None})
    wanted = free_ports(1)[0]

    assert remembered_ports(tmp_path, {"grpc": wanted}) == {"grpc": wanted}


def test_ports_that_are_settled_are_not_remembered_yet(tmp_path: Path) -> None:
    settled_ports(tmp_path, {"grpc": None})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{bad", b"\xff", b"[]", b'{"grpc": "1"}', b'{"grpc": true}', b'{"grpc": 65536}'],
)
def test_damaged_memory_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ports.json"
    file.write_bytes(content)

    with pytest.raises(ServerError, match="is damaged") as raised:
        remembered_ports(tmp_path, {"grpc": None})

    assert str(file) in raised.value.what
    assert "remove the file" in raised.value.next_step
    assert file.read_bytes() == content


def test_two_roles_do_not_share_a_port(tmp_path: Path) -> None:
    port = free_ports(1)[0]

    with pytest.raises(ServerError, match=f"grpc and http would both have the port {port}"):
        remembered_ports(tmp_path, {"grpc": port, "http": port})

    assert list(tmp_path.iterdir()) == []


def test_a_wanted_port_is_not_the_remembered_one_of_another_role(tmp_path: Path) -> None:
    earlier = remembered_ports(tmp_path, {"grpc": None, "http": None})

    with pytest.raises(ServerError, match="grpc and http") as raised:
        remembered_ports(tmp_path, {"grpc": earlier["http"], "http": None})

    assert str(tmp_path / "ports.json") in raised.value.next_step
    assert remembered_ports(tmp_path, {"grpc": None, "http": None}) == earlier
