"""What is watched is what the platform says: names of metrics, targets, files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from libs.common import telemetry
from services.monitoring.outbound.prometheus import PrometheusMeters
from tests.unit.deploy import compose

DEPLOY = compose.REPOSITORY / "deploy"
CONTAINERS = compose.containers()
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
RULES = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
# What other people's servers call theirs: Envoy, Triton, the collector, Prometheus itself.
OTHERS = re.compile(r"^(envoy_|nv_inference_|traces_span_metrics_|up$|ALERTS$)")
SUFFIXES = re.compile(r"_(bucket|count|sum)$")
NAME = re.compile(
    r"[a-zA-Z_:][a-zA-Z0-9_:]*(?=[{\[])|\b(?:basalt|envoy|nv|traces)[_:][a-zA-Z0-9_:]*"
)


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def rules() -> Iterator[dict[str, Any]]:
    for file in RULES:
        for group in load(file)["groups"]:
            yield from group["rules"]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return json.loads(dashboard.read_text())["panels"]


def expressions() -> list[str]:
    asked = [
        target["expr"]
        for file in DASHBOARDS
        for panel in panels(file)
        for target in panel.get("targets", [])
    ]
    return asked + [rule["expr"] for rule in rules()]


def names(expression: str) -> set[str]:
    return set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))


def exposed() -> set[str]:
    return {
        value
        for value in vars(telemetry).values()
        if isinstance(value, str) and value.startswith("basalt_")
    }


def test_monitoring_exposes_what_telemetry_names() -> None:
    described = {
        line.split()[2]
        for line in PrometheusMeters().exposition().decode().splitlines()
        if line.startswith("# TYPE")
    }
    assert {SUFFIXES.sub("", name) for name in described} == exposed()


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_that_is_asked_for_exists(expression: str) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for name in names(expression):
        known = SUFFIXES.sub("", name) in exposed() or name in recorded or OTHERS.match(name)
        assert known, name


def test_every_metric_of_ours_is_shown() -> None:
    shown = {SUFFIXES.sub("", name) for expression in expressions() for name in names(expression)}
    assert exposed() <= shown


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_has_the_shape_that_grafana_reads(dashboard: Path) -> None:
    content = json.loads(dashboard.read_text())
    assert content["uid"]
    assert content["title"]
    assert content["schemaVersion"] >= 39
    ids = [panel["id"] for panel in content["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    sources = {each["uid"]: each["type"] for each in datasources()}
    for panel in content["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
            for each in (panel, *panel["targets"]):
                assert sources[each["datasource"]["uid"]] == each["datasource"]["type"]
    variables = {variable["name"] for variable in content["templating"]["list"]}
    used = set(
        re.findall(r"\$(\w+)", json.dumps([panel.get("targets") for panel in content["panels"]]))
    )
    assert used - {"__rate_interval"} <= variables


def datasources() -> list[dict[str, Any]]:
    return load(DEPLOY / "grafana/provisioning/datasources/basalt.yml")["datasources"]


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert set(alert["annotations"]) == {"summary", "action"}
        assert alert["labels"]["severity"] in {"warning", "critical"}


def test_what_is_scraped_and_shown_are_containers_that_can_be_reached() -> None:
    config = load(DEPLOY / "prometheus/prometheus.yml")
    targets = [
        (job["job_name"], target)
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    for job, target in targets:
        host = target.partition(":")[0]
        reached = "prometheus" if host == "localhost" else "pod" if host == "gateway" else host
        assert set(CONTAINERS["prometheus"]["networks"]) & set(CONTAINERS[reached]["networks"]), job
    for source in datasources():
        host = source["url"].removeprefix("http://").partition(":")[0]
        assert set(CONTAINERS["grafana"]["networks"]) & set(CONTAINERS[host]["networks"])


def test_monitoring_is_scraped_where_it_listens() -> None:
    listen = CONTAINERS["monitoring"]["environment"]["BASALT_METRICS_LISTEN"]
    port = listen.rpartition(":")[2]
    assert f'"monitoring:{port}"' in (DEPLOY / "prometheus/prometheus.yml").read_text()


def test_spans_find_their_way() -> None:
    collector = load(DEPLOY / "collector/collector.yaml")
    receivers = collector["receivers"]["otlp"]["protocols"]
    services_send_to = CONTAINERS["ingest"]["environment"]["BASALT_OTLP"]
    assert services_send_to == "collector:" + receivers["grpc"]["endpoint"].rpartition(":")[2]
    [triton] = CONTAINERS["triton"]["command"]
    assert (
        f"http://collector:{receivers['http']['endpoint'].rpartition(':')[2]}/v1/traces" in triton
    )
    jaeger = load(DEPLOY / "jaeger/jaeger.yaml")["receivers"]["otlp"]["protocols"]["grpc"]
    monitoring = CONTAINERS["monitoring"]["environment"]["BASALT_OTLP_LISTEN"]
    ends = {
        exporter["endpoint"]
        for name, exporter in collector["exporters"].items()
        if name.startswith("otlp")
    }
    assert ends == {
        f"jaeger:{jaeger['endpoint'].rpartition(':')[2]}",
        f"monitoring:{monitoring.rpartition(':')[2]}",
    }


@pytest.mark.parametrize("file", ["deploy/collector/collector.yaml", "deploy/jaeger/jaeger.yaml"])
def test_a_pipeline_names_only_what_is_defined(file: str) -> None:
    content = load(compose.REPOSITORY / file)
    connectors = set(content.get("connectors", {}))
    assert set(content["service"]["extensions"]) <= set(content["extensions"])
    for pipeline in content["service"]["pipelines"].values():
        assert set(pipeline["receivers"]) <= set(content["receivers"]) | connectors
        assert set(pipeline["processors"]) <= set(content["processors"])
        assert set(pipeline["exporters"]) <= set(content["exporters"]) | connectors


def test_files_that_containers_mount_are_there() -> None:
    for container in CONTAINERS.values():
        for source in compose.mounts(container):
            if source.startswith("./") and not source.startswith("./deploy/secrets"):
                assert (compose.REPOSITORY / source).exists(), source
