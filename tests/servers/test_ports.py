import socket
import subprocess
import sys
from pathlib import Path

from tools.servers.ports import free_ports, is_free, remembered_ports


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
