"""What docker-compose.yml promises: pinned, watched, private, and told what its services ask."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml

from deploy.first_start import KAFKA_SECRETS, OWNERS, SERVICE_UID, make
from libs.common.settings import SECRETS_FOLDER, SERVICES, CommonSettings
from tests.unit.deploy import compose

CONTAINERS = compose.containers()
SERVING = {name: each for name, each in CONTAINERS.items() if not compose.runs_once(each)}
# Who reads settings of ours, and whose.
TOLD = {service: service for service in SERVICES} | {"dispatcher": "gateway"}
PUBLISHED = {"pod": 7080, "grafana": 3000, "prometheus": 9090, "jaeger": 16686}
EXPECTED = {
    *SERVICES, "dispatcher", "envoy", "kafka", "mongodb", "minio", "triton",
    "collector", "prometheus", "grafana", "jaeger",
}  # fmt: skip


def settings_of(container: str) -> type[CommonSettings]:
    return importlib.import_module(f"services.{TOLD[container]}.settings").Settings


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    make(folder)
    return folder


def test_every_part_of_the_platform_is_there() -> None:
    assert set(CONTAINERS) >= EXPECTED


@pytest.mark.parametrize("name", CONTAINERS)
def test_images_are_pinned(name: str) -> None:
    _, _, tag = CONTAINERS[name]["image"].rpartition(":")
    assert re.search(r"\d+\.\d+|\d{4}-\d{2}-\d{2}", tag), CONTAINERS[name]["image"]


@pytest.mark.parametrize("file", sorted((compose.REPOSITORY / "deploy/images").glob("*ockerfile")))
def test_images_of_ours_start_from_pinned_ones(file: Path) -> None:
    found = re.findall(r"^(?:ARG BASE=|FROM (?!\$))(\S+)", file.read_text(), re.MULTILINE)
    assert found
    for image in found:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


@pytest.mark.parametrize("name", SERVING)
def test_every_container_that_serves_is_watched_and_started_again(name: str) -> None:
    assert CONTAINERS[name]["healthcheck"]["test"][0] == "CMD"
    assert CONTAINERS[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_confined(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["mem_limit"]
    assert not container.get("privileged")
    # The one that gives files away has to be root, and has neither a network nor a next start.
    assert compose.user_id(container) != 0 or (
        name == "init" and container["network_mode"] == "none"
    )
    assert set(container.get("cap_add", [])) <= (
        {"CHOWN", "DAC_OVERRIDE", "FOWNER"} if name == "init" else set()
    )


@pytest.mark.parametrize("name", CONTAINERS)
def test_folders_in_memory_can_be_written_by_the_containers_user(name: str) -> None:
    # Without a mode the folder is root's, and has the mode of what it covers.
    for mount in CONTAINERS[name].get("tmpfs", []):
        assert "mode=1777" in mount.partition(":")[2].split(","), mount


def test_only_the_door_and_the_consoles_are_published_and_on_loopback_only() -> None:
    published = {name: each["ports"] for name, each in CONTAINERS.items() if "ports" in each}
    assert published == {name: [f"127.0.0.1:{port}:{port}"] for name, port in PUBLISHED.items()}


def test_private_networks_have_no_way_out() -> None:
    networks = yaml.safe_load(compose.text())["networks"]
    private = {name for name, network in networks.items() if network and network.get("internal")}
    for name, container in CONTAINERS.items():
        if "network_mode" not in container and name not in {*PUBLISHED, "collector"}:
            assert set(container["networks"]) <= private, name


def test_dependencies_are_awaited_not_only_started() -> None:
    for name, container in CONTAINERS.items():
        for dependency, how in container.get("depends_on", {}).items():
            wanted = (
                "service_completed_successfully"
                if compose.runs_once(CONTAINERS[dependency])
                else "service_healthy"
            )
            # The pod is nothing but a network.
            assert how["condition"] == wanted or dependency == "pod", (name, dependency)


@pytest.mark.parametrize("name", CONTAINERS)
def test_secrets_are_never_in_the_file(name: str) -> None:
    for variable, value in CONTAINERS[name].get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|CREDENTIAL|MASTER|_KEY|_USER(NAME)?(_|$)", variable):
            assert str(value).startswith("/run/secrets/basalt"), variable
    assert "env_file" not in CONTAINERS[name]


@pytest.mark.parametrize("name", TOLD)
def test_every_variable_is_a_setting_of_its_service(name: str) -> None:
    known = {f"BASALT_{field.upper()}" for field in settings_of(name).model_fields}
    given = {each for each in CONTAINERS[name]["environment"] if each.startswith("BASALT_")}
    assert given <= known | {SECRETS_FOLDER}


@pytest.mark.parametrize("name", TOLD)
def test_the_settings_of_each_service_are_complete(
    name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = CONTAINERS[name]
    folder = compose.mounts(container)
    assert folder[f"./deploy/secrets/{TOLD[name]}"] == container["environment"][SECRETS_FOLDER]
    for variable, value in container["environment"].items():
        monkeypatch.setenv(variable, str(value))
    settings = settings_of(name)(_secrets_dir=secrets / TOLD[name])  # pyright: ignore[reportCallIssue]
    assert set(settings.peers) == set(SERVICES)
    assert settings.journal.endswith(f"/basalt-{TOLD[name]}")
    assert settings.s3_secret_key.get_secret_value()
    assert str(settings.tls) == container["environment"][SECRETS_FOLDER] + "/tls"


@pytest.mark.parametrize("name", TOLD)
def test_no_secret_setting_comes_by_the_environment(name: str) -> None:
    fields = settings_of(name).model_fields
    secret = {field for field, info in fields.items() if "SecretStr" in str(info.annotation)}
    given = {each.removeprefix("BASALT_").lower() for each in CONTAINERS[name]["environment"]}
    assert not given & secret


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "init"])
def test_a_container_sees_its_own_secrets_alone_as_the_user_they_belong_to(name: str) -> None:
    container = CONTAINERS[name]
    owner = compose.user_id(container)
    for source in compose.mounts(container):
        if source.startswith("./deploy/secrets"):
            holder = source.split("/")[3]
            assert OWNERS[holder] == owner
            assert holder in {name, TOLD.get(name), "gateway" if name == "envoy" else name}
    if name == "envoy":
        assert "./deploy/secrets/gateway/tls" in compose.mounts(container)


def test_every_volume_is_given_to_the_user_that_writes_it() -> None:
    handed_over = compose.mounts(CONTAINERS["init"])
    volumes = yaml.safe_load(compose.text())["volumes"]
    for volume in volumes:
        assert handed_over[volume] == f"/volumes/{volume}"
        writers = [
            each
            for name, each in CONTAINERS.items()
            if name != "init" and volume in compose.mounts(each)
        ]
        assert writers, volume
        assert {compose.user_id(each) for each in writers} == {OWNERS[volume]}


def test_peers_are_where_the_services_listen() -> None:
    environment = CONTAINERS["ingest"]["environment"]
    port = environment["BASALT_RPC_LISTEN"].rpartition(":")[2]
    assert json.loads(environment["BASALT_PEERS"]) == {each: f"{each}:{port}" for each in SERVICES}
    assert CONTAINERS["pod"]["networks"]["platform"]["aliases"] == ["gateway"]
    for name in ("gateway", "dispatcher", "envoy"):
        assert CONTAINERS[name]["network_mode"] == "service:pod"
        assert compose.user_id(CONTAINERS[name]) == SERVICE_UID


def test_triton_guards_what_changes_it() -> None:
    [command] = CONTAINERS["triton"]["command"]
    for flag in (
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        '--grpc-restricted-protocol="$$rule"',
        '--http-restricted-api="$$rule"',
        "--grpc-use-ssl-mutual=true",
        "--http-address=127.0.0.1",
        "model-repository,model-config,shared-memory,trace,logging:basalt-control=",
    ):
        assert flag in command
    assert CONTAINERS["triton"]["networks"] == ["serving"]
    assert CONTAINERS["inference"]["environment"]["BASALT_TRITON_BACKEND"] == "onnxruntime"
    for name in ("inference", "gateway", "dispatcher"):
        assert CONTAINERS[name]["environment"]["BASALT_TRITON"] == "tls:triton:8001"


def test_kafka_lets_nobody_in_without_a_name_and_a_certificate(secrets: Path) -> None:
    told = CONTAINERS["kafka"]["environment"]
    protocols = dict(
        each.split(":") for each in told["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    listeners = [each.split("://") for each in told["KAFKA_LISTENERS"].split(",")]

    # What others reach is by TLS and by name; the controller is the container's own.
    reached = [name for name, where in listeners if not where.startswith("localhost:")]
    assert {protocols[name] for name in reached} == {"SASL_SSL"}
    assert set(protocols.values()) <= {"SASL_SSL", "SASL_PLAINTEXT"}
    # Settings with passwords come by a file: the environment is there for all to read.
    assert not [name for name in told if "JAAS" in name or "PASSWORD" in name]
    mounted = [volume.split(":") for volume in CONTAINERS["kafka"]["volumes"]]
    assert ["./deploy/secrets/kafka", KAFKA_SECRETS, "ro"] in mounted
    properties = (secrets / "kafka/server.properties").read_text()
    for line in properties.splitlines():
        if line.partition("=")[0].endswith(".location"):
            file = line.partition("=")[2].removeprefix(f"{KAFKA_SECRETS}/")
            assert (secrets / "kafka" / file).exists(), line
    assert "allow.everyone.if.no.acl.found=false" in properties


@pytest.mark.parametrize("name", TOLD)
def test_who_talks_to_kafka_checks_its_certificate_and_has_a_password(
    name: str, secrets: Path
) -> None:
    ca = CONTAINERS[name]["environment"]["BASALT_KAFKA_CA"]

    assert (secrets / TOLD[name] / Path(ca).relative_to("/run/secrets/basalt")).exists()
    assert (secrets / TOLD[name] / "basalt_kafka_password").read_text()
