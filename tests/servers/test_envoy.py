import http.client
import json
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from libs.common.unix import http_connection, path_of
from tools.servers import Envoy, ServerError
from tools.servers.envoy import validate
from tools.servers.ports import free_ports

MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def greeting(port: int) -> dict[str, object]:
    answer = {"status": 200, "body": {"inline_string": "hello"}}
    route = {"match": {"prefix": "/"}, "direct_response": answer}
    manager = {
        "@type": f"{MANAGER}.HttpConnectionManager",
        "stat_prefix": "door",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {
        "name": "door",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": filters}],
    }
    return {"static_resources": {"listeners": [listener]}}


def test_it_serves_its_configuration_and_comes_back_after_a_kill(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(greeting(port)))
    with Envoy(config) as door:
        assert urlopen(f"http://127.0.0.1:{port}/").read() == b"hello"
        door.kill()
        assert not door.alive
        door.start()
        assert urlopen(f"http://127.0.0.1:{port}/").read() == b"hello"


def test_its_admin_listener_cannot_end_it(tmp_path: Path) -> None:
    config = tmp_path / "envoy.json"
    config.write_text("{}")
    with Envoy(config) as door:
        admin = http_connection(door.admin_address, 5.0)
        admin.request("POST", "/quitquitquit")
        assert admin.getresponse().status == http.client.FORBIDDEN
        admin.close()
        assert door.alive


def test_its_admin_listener_is_its_users_alone(tmp_path: Path) -> None:
    config = tmp_path / "envoy.json"
    config.write_text("{}")
    with Envoy(config) as door:
        path = path_of(door.admin_address)
        assert path is not None
        assert path.stat().st_mode & 0o777 == 0o600
        assert not psutil.Process(door.pid).net_connections("inet")
        door.kill()
        assert not door.answers()
        # What it left does not keep the next one from its place.
        assert path.exists()
        door.start()
        assert door.answers()


def test_a_bad_configuration_is_refused_in_envoys_own_words(tmp_path: Path) -> None:
    config = tmp_path / "envoy.json"
    config.write_text('{"static_resources": {"listenerz": []}}')

    with pytest.raises(ServerError, match="no such") as refusal:
        validate(config)

    assert "listenerz" in str(refusal.value)


def test_a_bad_configuration_is_not_started(tmp_path: Path) -> None:
    config = tmp_path / "envoy.json"
    config.write_text("not json")

    with pytest.raises(ServerError, match="refuses"):
        Envoy(config).start()
