"""What `basalt up` refuses at once: nothing is started, and nothing of the installation changes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from standalone.home import Home
from standalone.looking import problems
from standalone.processes import lay_out
from standalone.up import run
from tools.servers.errors import ServerError
from tools.servers.ports import earlier_ports, free_ports


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the sockets of an installation have to fit into it."""
    with tempfile.TemporaryDirectory(prefix="basalt-") as made:
        yield Path(made)


@pytest.mark.parametrize("sealed", ["journals/security.db", "objects/a/b", "first-login.txt"])
def test_lost_secrets_are_not_made_anew_where_something_is_sealed(
    folder: Path, sealed: str
) -> None:
    (folder / sealed).parent.mkdir(parents=True, exist_ok=True)
    (folder / sealed).write_text("sealed")
    with pytest.raises(ServerError, match=r"secrets.json is missing") as raised:
        run(folder)
    assert sealed.split("/")[0] in raised.value.what
    assert "restore the file" in raised.value.next_step
    assert "`basalt down --purge`" in raised.value.next_step
    assert not (folder / "secrets.json").exists()
    assert not Home.at(folder).has_ports()


def test_empty_folders_are_no_reason_to_refuse(folder: Path) -> None:
    (folder / "journals").mkdir()
    assert Home.at(folder).secrets.master_key


def test_damaged_ports(folder: Path) -> None:
    (folder / "ports.json").write_text("{bad")
    with pytest.raises(ServerError, match=f"{folder}/ports.json is damaged") as raised:
        run(folder)
    assert "remove the file" in raised.value.next_step
    assert "ports.json is damaged" in problems(folder)["installation"]


def test_one_port_for_two_roles(folder: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(ServerError, match=f"door and kafka .* {port}") as raised:
        run(folder, door_port=port, kafka_port=port)
    assert "choose another port" in raised.value.next_step
    assert not Home.at(folder).has_ports()
    assert not (folder / "secrets.json").exists()


@pytest.mark.parametrize("role", ["kafka", "metrics"])
def test_port_that_another_role_had_earlier(folder: Path, role: str) -> None:
    home = Home.at(folder)
    earlier = home.ports(*free_ports(2))
    home.remember(earlier)
    with pytest.raises(ServerError, match=f"both have the port {earlier[role]}") as raised:
        run(folder, door_port=earlier[role])
    assert role in raised.value.what
    assert "door" in raised.value.what
    assert home.ports() == earlier


def test_port_that_a_server_has_for_itself(folder: Path) -> None:
    home = Home.at(folder)
    earlier = home.ports(*free_ports(2))
    home.remember(earlier)
    lay_out(home)
    taken = earlier_ports(folder / "kafka")["controller"]
    expected = f"door and kafka's controller would both have the port {taken}"
    with pytest.raises(ServerError, match=expected) as raised:
        run(folder, door_port=taken)
    assert "choose another port for door" in raised.value.next_step
    assert home.ports() == earlier


def test_port_of_the_broker_may_move(folder: Path) -> None:
    home = Home.at(folder)
    home.remember(home.ports(*free_ports(2)))
    lay_out(home)
    (kafka,) = free_ports(1)
    assert lay_out(home, kafka_port=kafka).kafka.endswith(f":{kafka}")


def test_an_older_installation_gets_the_keys_it_lacks_and_keeps_its_own(folder: Path) -> None:
    file = folder / "secrets.json"
    made = Home.at(folder).secrets
    older = json.loads(file.read_text())
    del older["otlp_key"], older["metrics_key"]
    file.write_text(json.dumps(older))

    renewed = Home.at(folder).secrets
    assert renewed.master_key == made.master_key
    assert renewed.service_credentials == made.service_credentials
    assert len({renewed.otlp_key, renewed.metrics_key, made.otlp_key, made.metrics_key}) == 4
    assert Home.at(folder).secrets == renewed
    assert file.stat().st_mode & 0o777 == 0o600


def test_secrets_without_a_master_key_are_damaged(folder: Path) -> None:
    (folder / "secrets.json").write_text("{}")
    with pytest.raises(ServerError, match="is damaged"):
        run(folder)
